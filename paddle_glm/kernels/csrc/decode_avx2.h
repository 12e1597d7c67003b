// Weights of any kind to float32, with AVX2. For files of that instruction set only.
#pragma once

#include <immintrin.h>

#include "float_types.h"
#include "layout.h"

namespace paddle_glm {
namespace {

constexpr int kLanes = 8;
using Vector = __m256;

// 32 bytes of a block: inputs of 8 rows, one row per 32-bit lane (layout.h).
template <int kBits>
struct Line {
    static constexpr int kInputs = kBits == 4 ? 8 : 4;

    __m256i low, high;  // high: without the lower 16 bits of each lane

    explicit Line(const uint8_t* bytes)
        : low(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes))),
          high(_mm256_srli_epi32(low, 16)) {}

    // Input t of the 8 rows, without scale; exact. The stored bits become the last ones of the fraction of a
    // float32 of a known power of two, which is subtracted together with the offset.
    __m256 input(int t) const {
        const int at = kBits == 4 ? t % 4 * 8 + t / 4 * 4 : t * 8;
        const int shift = at % 16;
        const __m256i mask = _mm256_set1_epi32(((1 << kBits) - 1) << shift);
        const __m256i power = _mm256_set1_epi32((150 - shift) << 23);  // 2^(23 - shift)
        const __m256i bits = _mm256_or_si256(_mm256_and_si256(at < 16 ? low : high, mask), power);
        const float offset = static_cast<float>((1 << (23 - shift)) + (1 << (kBits - 1)));
        return _mm256_sub_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(offset));
    }
};

// 8 numbers.
template <FloatType kType>
inline __m256 load_floats(const Number<kType>* values) {
    if constexpr (kType == FloatType::kFloat32) {
        return _mm256_loadu_ps(values);
    } else {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
        if (kType == FloatType::kFloat16) return _mm256_cvtph_ps(bits);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
}

// The first `count` of 8, which alone are read; the others are zero.
template <FloatType kType>
inline __m256 load_first(const Number<kType>* values, int64_t count) {
    if (count >= 8) return load_floats<kType>(values);
    Number<kType> some[8] = {};
    for (int64_t i = 0; i < count; i++) some[i] = values[i];
    return load_floats<kType>(some);
}

// 8 vectors of 8 numbers as a matrix, transposed.
inline void transpose(__m256 (&v)[8]) {
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        v[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        v[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        v[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) v[i] = t[i];
}

}  // namespace
}  // namespace paddle_glm
