// Weights of any kind to float32, with AVX-512. For files of that instruction set only.
#pragma once

#include <immintrin.h>

#include "float_types.h"
#include "layout.h"

namespace paddle_glm {
namespace {

constexpr int kLanes = 16;
using Vector = __m512;

// 64 bytes of a block: inputs of 16 rows, one row per 32-bit lane (layout.h).
template <int kBits>
struct Line {
    static constexpr int kInputs = kBits == 4 ? 8 : 4;

    __m512i low, high;  // high: without the lower 16 bits of each lane

    explicit Line(const uint8_t* bytes) : low(_mm512_loadu_si512(bytes)), high(_mm512_srli_epi32(low, 16)) {}

    // Input t of the 16 rows, without scale; exact. The stored bits become the last ones of the fraction of
    // a float32 of a known power of two, which is subtracted together with the offset: a logical operation
    // and a subtraction instead of a shift and a conversion.
    __m512 input(int t) const {
        const int at = kBits == 4 ? t % 4 * 8 + t / 4 * 4 : t * 8;
        const int shift = at % 16;
        const __m512i mask = _mm512_set1_epi32(((1 << kBits) - 1) << shift);
        const __m512i power = _mm512_set1_epi32((150 - shift) << 23);  // 2^(23 - shift)
        const __m512i bits = _mm512_ternarylogic_epi32(at < 16 ? low : high, mask, power, 0xEA);
        const float offset = static_cast<float>((1 << (23 - shift)) + (1 << (kBits - 1)));
        return _mm512_sub_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(offset));
    }
};

// 16 numbers; those that the mask leaves out are zero and not read.
template <FloatType kType>
inline __m512 load_floats(const Number<kType>* values, __mmask16 mask) {
    if constexpr (kType == FloatType::kFloat32) {
        return _mm512_maskz_loadu_ps(mask, values);
    } else {
        const __m256i bits = _mm256_maskz_loadu_epi16(mask, values);
        if (kType == FloatType::kFloat16) return _mm512_cvtph_ps(bits);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
}

// The first `count` of 16, which alone are read; the others are zero.
template <FloatType kType>
inline __m512 load_first(const Number<kType>* values, int64_t count) {
    return load_floats<kType>(values, count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

// 16 vectors of 16 numbers as a matrix, transposed.
inline void transpose(__m512 (&v)[16]) {
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
        v[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
    }
}

}  // namespace
}  // namespace paddle_glm
