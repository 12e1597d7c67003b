// Floating point numbers, and weights that are stored as such.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace paddle_glm {

enum class FloatType { kFloat16, kBfloat16, kFloat32 };

// A number of the type in memory.
template <FloatType kType>
using Number = std::conditional_t<kType == FloatType::kFloat32, float, uint16_t>;

// A weight, row-major [rows, columns].
struct FloatMatrix {
    const void* values;
    int64_t rows, columns;
    FloatType type;

    // Row i, where kType is `type`.
    template <FloatType kType>
    const Number<kType>* row(int64_t i) const {
        return static_cast<const Number<kType>*>(values) + i * columns;
    }
};

// f(std::integral_constant<FloatType, type>()): `type` as a constant.
template <class F>
static inline auto with_type(FloatType type, const F& f) {
    using std::integral_constant;
    if (type == FloatType::kFloat16) return f(integral_constant<FloatType, FloatType::kFloat16>());
    if (type == FloatType::kBfloat16) return f(integral_constant<FloatType, FloatType::kBfloat16>());
    return f(integral_constant<FloatType, FloatType::kFloat32>());
}

// The float32 of the same value. Static: files of every instruction set compile a copy of their own.
static inline float to_float(float value, FloatType) { return value; }
static inline float to_float(uint16_t value, FloatType type) {
    uint32_t bits = static_cast<uint32_t>(value) << 16;
    float result;
    if (type == FloatType::kFloat16) {
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
