// Products of float32 panels.
#include <immintrin.h>

#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int kRows = 6;  // 12 sums, 2 vectors of the panel and one of x: 15 of 16 registers
constexpr int kColumns = 16;

template <int kCount>
void multiply_tile(const float* x, int64_t x_stride, const float* panel, int64_t depth, float* y,
                   int64_t y_stride, bool add) {
    __m256 sums[kCount][2];
#pragma GCC unroll 6
    for (int m = 0; m < kCount; m++) sums[m][0] = sums[m][1] = _mm256_setzero_ps();
    for (int64_t k = 0; k < depth; k++, panel += kPanelWidth) {
        const __m256 w0 = _mm256_load_ps(panel), w1 = _mm256_load_ps(panel + 8);
#pragma GCC unroll 6
        for (int m = 0; m < kCount; m++) {
            const __m256 one = _mm256_set1_ps(x[m * x_stride + k]);
            sums[m][0] = _mm256_fmadd_ps(one, w0, sums[m][0]);
            sums[m][1] = _mm256_fmadd_ps(one, w1, sums[m][1]);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < kCount; m++)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            float* out = y + m * y_stride + 8 * i;
            _mm256_storeu_ps(out, add ? _mm256_add_ps(_mm256_loadu_ps(out), sums[m][i]) : sums[m][i]);
        }
}

using Tile = void (*)(const float*, int64_t, const float*, int64_t, float*, int64_t, bool);
constexpr Tile kTiles[kRows] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                multiply_tile<4>, multiply_tile<5>, multiply_tile<6>};

void multiply_panel(const float* x, int64_t x_stride, int64_t rows, const float* panel, int64_t depth,
                    float* y, int64_t y_stride, bool add) {
    for (int64_t c = 0; c < kPanelWidth; c += kColumns)
        for (int64_t m = 0; m < rows; m += kRows)
            kTiles[(rows - m < kRows ? rows - m : kRows) - 1](x + m * x_stride, x_stride, panel + c, depth,
                                                              y + m * y_stride + c, y_stride, add);
}

}  // namespace

void fill_float_multiply_avx2(KernelTable& table) { table.floats.multiply_panel = multiply_panel; }

}  // namespace paddle_glm
