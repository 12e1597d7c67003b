// Quantised weights in kernel order to float32, with AVX-512. For files of that instruction set only.
#pragma once

#include <immintrin.h>

#include "layout.h"

namespace paddle_glm {
namespace {

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

}  // namespace
}  // namespace paddle_glm
