// Half precision numbers and weights.
#pragma once

#include <cstdint>
#include <cstring>

namespace paddle_glm {

enum class HalfType { kFloat16, kBfloat16 };

// A weight of half precision numbers, row-major [rows, columns].
struct HalfMatrix {
    const uint16_t* values;
    int64_t rows, columns;
    HalfType type;

    const uint16_t* row(int64_t i) const { return values + i * columns; }
};

// The float32 of the same value. Static: files of every instruction set compile a copy of their own.
static inline float to_float(uint16_t value, HalfType type) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    if (type == HalfType::kFloat16) {
        const uint32_t sign = bits & 0x80000000u, exponent = value >> 10 & 31, fraction = value & 1023;
        if (exponent == 0) {
            result = static_cast<float>(fraction) * 0x1p-24f;
            return sign ? -result : result;
        }
        bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    }
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

}  // namespace paddle_glm
