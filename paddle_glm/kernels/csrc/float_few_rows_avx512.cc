// One row to a few, with weights of floating point numbers.
#include <immintrin.h>

#include "decode_avx512.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// Weight rows that are read at once: a core gets more of the memory's bandwidth from 8 places than from one
// or from fetching ahead. With 4 rows of x their sums need the registers.
constexpr int weight_rows(int rows) { return rows == 4 ? 6 : 8; }

// Adds the products of 16 inputs, or of those that the mask leaves, to
// sums[weight row][x row].
template <FloatType kType, int kWeights, int kRows>
inline void add_products(const Number<kType>* w, const float* x, int64_t stride, __mmask16 mask,
                         __m512 (&sums)[kWeights][kRows]) {
    __m512 inputs[kRows];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++) inputs[m] = _mm512_maskz_loadu_ps(mask, x + m * stride);
#pragma GCC unroll 8
    for (int n = 0; n < kWeights; n++) {
        const __m512 weights = load_floats<kType>(w + n * stride, mask);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++) sums[n][m] = _mm512_fmadd_ps(weights, inputs[m], sums[n][m]);
    }
}

// y[m][n] for kWeights weight rows from w on.
template <FloatType kType, int kWeights, int kRows>
void multiply_rows(const float* x, const Number<kType>* w, int64_t columns, float* y, int64_t y_stride) {
    __m512 sums[kWeights][kRows];
#pragma GCC unroll 8
    for (int n = 0; n < kWeights; n++)
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++) sums[n][m] = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + 16 <= columns; k += 16)
        add_products<kType, kWeights, kRows>(w + k, x + k, columns, 0xFFFF, sums);
    if (k < columns)
        add_products<kType, kWeights, kRows>(w + k, x + k, columns, (1 << (columns - k)) - 1, sums);
#pragma GCC unroll 8
    for (int n = 0; n < kWeights; n++)
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++) y[m * y_stride + n] = _mm512_reduce_add_ps(sums[n][m]);
}

template <FloatType kType, int kRows>
void few_rows(const float* x, const FloatMatrix& weight, int64_t row_begin, int64_t row_end, float* y,
              int64_t y_stride) {
    constexpr int kWeights = weight_rows(kRows);
    int64_t n = row_begin;
    for (; n + kWeights <= row_end; n += kWeights)
        multiply_rows<kType, kWeights, kRows>(x, weight.row<kType>(n), weight.columns, y + n, y_stride);
    for (; n < row_end; n++)
        multiply_rows<kType, 1, kRows>(x, weight.row<kType>(n), weight.columns, y + n, y_stride);
}

using FewRows = void (*)(const float*, const FloatMatrix&, int64_t, int64_t, float*, int64_t);

template <FloatType kType>
constexpr FewRows kFunctions[] = {few_rows<kType, 1>, few_rows<kType, 2>, few_rows<kType, 3>,
                                  few_rows<kType, 4>};
static_assert(kFewRows == 4, "a function per number of rows");

void float_few_rows(const float* x, int64_t rows, const FloatMatrix& weight, int64_t row_begin,
                    int64_t row_end, float* y, int64_t y_stride) {
    with_type(weight.type, [&](auto type) {
        kFunctions<type.value>[rows - 1](x, weight, row_begin, row_end, y, y_stride);
    });
}

}  // namespace

void fill_float_few_rows_avx512(KernelTable& table) { table.floats.float_few_rows = float_few_rows; }

}  // namespace paddle_glm
