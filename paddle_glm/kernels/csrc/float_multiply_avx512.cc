#include <immintrin.h>

#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int kRows = 6;  // 24 sums, 4 vectors of the panel and one of x: 29 of 32 registers

template <int kCount>
void multiply_rows(const float* x, int64_t x_stride, const float* panel, int64_t depth, float* y,
                   int64_t y_stride, bool add) {
    __m512 sums[kCount][4];
#pragma GCC unroll 6
    for (int m = 0; m < kCount; m++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[m][i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k++, panel += kPanelWidth) {
        __m512 w[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) w[i] = _mm512_load_ps(panel + 16 * i);
#pragma GCC unroll 6
        for (int m = 0; m < kCount; m++) {
            const __m512 one = _mm512_set1_ps(x[m * x_stride + k]);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) sums[m][i] = _mm512_fmadd_ps(one, w[i], sums[m][i]);
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

void multiply_panel(const float* x, int64_t x_stride, int64_t rows, const float* panel, int64_t depth,
                    float* y, int64_t y_stride, bool add) {
    for (; rows >= kRows; rows -= kRows, x += kRows * x_stride, y += kRows * y_stride)
        multiply_rows<kRows>(x, x_stride, panel, depth, y, y_stride, add);
    switch (rows) {
        case 5:
            return multiply_rows<5>(x, x_stride, panel, depth, y, y_stride, add);
        case 4:
            return multiply_rows<4>(x, x_stride, panel, depth, y, y_stride, add);
        case 3:
            return multiply_rows<3>(x, x_stride, panel, depth, y, y_stride, add);
        case 2:
            return multiply_rows<2>(x, x_stride, panel, depth, y, y_stride, add);
        case 1:
            return multiply_rows<1>(x, x_stride, panel, depth, y, y_stride, add);
    }
}

}  // namespace

void fill_float_multiply_avx512(KernelTable& table) { table.floats.multiply_panel = multiply_panel; }

}  // namespace paddle_glm
