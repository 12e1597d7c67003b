// bfloat16 arithmetic: rounding, and products of panels.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int kRows = 6;  // 24 sums, 4 vectors of the panel and one of x: 29 of 32 registers

void round_bfloat16(const float* x, int64_t count, uint16_t* rounded) {
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = count - i < 16 ? (1 << (count - i)) - 1 : 0xFFFF;
        const __m256bh half = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
        _mm256_mask_storeu_epi16(rounded + i, mask, (__m256i)half);
    }
}

// Word 2i of the result is word i of the lower half, word 2i + 1 of the upper half.
__m512i interleave_halves() {
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 32; i++) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 16);
    return _mm512_load_si512(order);
}

void pair_panel(const float* panel, int64_t depth, uint32_t* pairs) {
    const __m512i order = interleave_halves();
    for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanelWidth, pairs += kPanelWidth)
#pragma GCC unroll 4
        for (int64_t c = 0; c < kPanelWidth; c += 16) {
            const __m512bh both =
                _mm512_cvtne2ps_pbh(_mm512_load_ps(panel + kPanelWidth + c), _mm512_load_ps(panel + c));
            _mm512_store_si512(pairs + c, _mm512_permutexvar_epi16(order, (__m512i)both));
        }
}

inline __m512bh broadcast_pair(const uint16_t* x) {
    int pair;
    std::memcpy(&pair, x, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

template <int kCount>
void multiply_rows(const uint16_t* x, int64_t x_stride, const uint32_t* pairs, int64_t depth, float* y,
                   int64_t y_stride, bool add) {
    __m512 sums[kCount][4];
#pragma GCC unroll 6
    for (int m = 0; m < kCount; m++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[m][i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += 2, pairs += kPanelWidth) {
        __m512bh w[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) w[i] = (__m512bh)_mm512_load_si512(pairs + 16 * i);
#pragma GCC unroll 6
        for (int m = 0; m < kCount; m++) {
            const __m512bh one = broadcast_pair(x + m * x_stride + k);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) sums[m][i] = _mm512_dpbf16_ps(sums[m][i], w[i], one);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < kCount; m++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            float* out = y + m * y_stride + 16 * i;
            _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), sums[m][i]) : sums[m][i]);
        }
}

void multiply_panel(const uint16_t* x, int64_t x_stride, int64_t rows, const uint32_t* pairs, int64_t depth,
                    float* y, int64_t y_stride, bool add) {
    for (; rows >= kRows; rows -= kRows, x += kRows * x_stride, y += kRows * y_stride)
        multiply_rows<kRows>(x, x_stride, pairs, depth, y, y_stride, add);
    switch (rows) {
        case 5:
            return multiply_rows<5>(x, x_stride, pairs, depth, y, y_stride, add);
        case 4:
            return multiply_rows<4>(x, x_stride, pairs, depth, y, y_stride, add);
        case 3:
            return multiply_rows<3>(x, x_stride, pairs, depth, y, y_stride, add);
        case 2:
            return multiply_rows<2>(x, x_stride, pairs, depth, y, y_stride, add);
        case 1:
            return multiply_rows<1>(x, x_stride, pairs, depth, y, y_stride, add);
    }
}

}  // namespace

void fill_float_avx512_bf16(KernelTable& table) {
    table.floats.round_bfloat16 = round_bfloat16;
    table.floats.pair_panel = pair_panel;
    table.floats.multiply_panel_bfloat16 = multiply_panel;
}

}  // namespace paddle_glm
