// Products of panels with AVX-512. For files of that instruction set only.
//
// The parameter P gives the numbers of x, the elements of a panel and the instructions: an element holds
// kNumbers numbers of one column, and `multiply_add` adds the products of them all.
#pragma once

#include <immintrin.h>

#include "float_kernels.h"

namespace paddle_glm {
namespace {

constexpr int kRows = 6;  // 24 sums, 4 vectors of the panel and one of x: 29 of 32 registers

template <class P, int kCount>
void multiply_rows(const typename P::Number* x, int64_t x_stride, const typename P::Element* panel,
                   int64_t depth, float* y, int64_t y_stride, bool add) {
    __m512 sums[kCount][4];
#pragma GCC unroll 6
    for (int m = 0; m < kCount; m++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[m][i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += P::kNumbers, panel += kPanelWidth) {
        typename P::Vector w[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) w[i] = P::load(panel + 16 * i);
#pragma GCC unroll 6
        for (int m = 0; m < kCount; m++) {
            const typename P::Vector one = P::broadcast(x + m * x_stride + k);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) sums[m][i] = P::multiply_add(one, w[i], sums[m][i]);
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

template <class P>
using MultiplyRows = void (*)(const typename P::Number*, int64_t, const typename P::Element*, int64_t, float*,
                              int64_t, bool);
template <class P>
constexpr MultiplyRows<P> kMultiplyRows[kRows] = {multiply_rows<P, 1>, multiply_rows<P, 2>,
                                                  multiply_rows<P, 3>, multiply_rows<P, 4>,
                                                  multiply_rows<P, 5>, multiply_rows<P, 6>};

// FloatKernels::multiply_panel and multiply_panel_bfloat16.
template <class P>
void multiply_panel(const typename P::Number* x, int64_t x_stride, int64_t rows,
                    const typename P::Element* panel, int64_t depth, float* y, int64_t y_stride, bool add) {
    for (int64_t m = 0; m < rows; m += kRows)
        kMultiplyRows<P>[(rows - m < kRows ? rows - m : kRows) - 1](x + m* x_stride, x_stride, panel, depth,
                                                                    y + m* y_stride, y_stride, add);
}

}  // namespace
}  // namespace paddle_glm
