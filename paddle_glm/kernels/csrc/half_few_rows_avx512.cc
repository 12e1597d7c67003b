// One row to a few, with half precision weights.
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
template <HalfType kType, int kWeights, int kRows>
inline void add_products(const uint16_t* w, const float* x, int64_t stride, __mmask16 mask,
                         __m512 (&sums)[kWeights][kRows]) {
    __m512 inputs[kRows];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++) inputs[m] = _mm512_maskz_loadu_ps(mask, x + m * stride);
#pragma GCC unroll 8
    for (int n = 0; n < kWeights; n++) {
        const __m512 weights = load_half<kType>(w + n * stride, mask);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++) sums[n][m] = _mm512_fmadd_ps(weights, inputs[m], sums[n][m]);
    }
}

// y[m][n] for kWeights weight rows from w on.
template <HalfType kType, int kWeights, int kRows>
void multiply_rows(const float* x, const uint16_t* w, int64_t columns, float* y, int64_t y_stride) {
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

template <HalfType kType, int kRows>
void few_rows(const float* x, const HalfMatrix& weight, int64_t row_begin, int64_t row_end, float* y,
              int64_t y_stride) {
    constexpr int kWeights = weight_rows(kRows);
    int64_t n = row_begin;
    for (; n + kWeights <= row_end; n += kWeights)
        multiply_rows<kType, kWeights, kRows>(x, weight.row(n), weight.columns, y + n, y_stride);
    for (; n < row_end; n++)
        multiply_rows<kType, 1, kRows>(x, weight.row(n), weight.columns, y + n, y_stride);
}

using FewRows = void (*)(const float*, const HalfMatrix&, int64_t, int64_t, float*, int64_t);

template <HalfType kType>
constexpr FewRows kFunctions[] = {few_rows<kType, 1>, few_rows<kType, 2>, few_rows<kType, 3>,
                                  few_rows<kType, 4>};
static_assert(kFewRows == 4, "a function per number of rows");

void half_few_rows(const float* x, int64_t rows, const HalfMatrix& weight, int64_t row_begin, int64_t row_end,
                   float* y, int64_t y_stride) {
    constexpr auto kFloat16 = HalfType::kFloat16, kBfloat16 = HalfType::kBfloat16;
    (weight.type == kFloat16 ? kFunctions<kFloat16> : kFunctions<kBfloat16>)[rows - 1](x, weight, row_begin,
                                                                                       row_end, y, y_stride);
}

}  // namespace

void fill_half_few_rows_avx512(KernelTable& table) { table.floats.half_few_rows = half_few_rows; }

}  // namespace paddle_glm
