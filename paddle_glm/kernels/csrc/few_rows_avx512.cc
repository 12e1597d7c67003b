// One row to a few, with quantised weights in float32 arithmetic.
#include "decode_avx512.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// Inputs whose products are added in one sum before it joins the total: keeps rounding errors small.
constexpr int64_t kSumInputs = 512;

// y[m][0..31] of one block of weight rows.
template <int kBits, int kRows>
void multiply_block(const float* x, int64_t columns, int64_t group_size, const uint8_t* values,
                    const float* scales, float* y, int64_t y_stride) {
    constexpr int kInputs = Line<kBits>::kInputs;
    constexpr int kParts = 2;  // independent sums, to hide the latency of additions
    __m512 total[kRows][2];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++) total[m][0] = total[m][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < columns;) {
        const int64_t group = k / group_size;
        const int64_t group_end = (group + 1) * group_size;
        const int64_t end = group_end - k < kSumInputs ? group_end : k + kSumInputs;
        __m512 sums[kRows][2][kParts];
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
#pragma GCC unroll 2
                for (int p = 0; p < kParts; p++) sums[m][h][p] = _mm512_setzero_ps();
        for (; k < end; k += kInputs, values += 2 * kLineBytes) {
            const Line<kBits> lines[2] = {Line<kBits>(values), Line<kBits>(values + kLineBytes)};
#pragma GCC unroll 8
            for (int t = 0; t < kInputs; t++) {
                const __m512 w[2] = {lines[0].input(t), lines[1].input(t)};
#pragma GCC unroll 4
                for (int m = 0; m < kRows; m++) {
                    const __m512 one = _mm512_set1_ps(x[m * columns + k + t]);
#pragma GCC unroll 2
                    for (int h = 0; h < 2; h++) {
                        __m512& sum = sums[m][h][t % kParts];
                        sum = _mm512_fmadd_ps(one, w[h], sum);
                    }
                }
            }
        }
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const __m512 scale = _mm512_loadu_ps(scales + group * kBlockRows + 16 * h);
#pragma GCC unroll 4
            for (int m = 0; m < kRows; m++) {
                __m512 sum = sums[m][h][0];
                if (kParts == 2) sum = _mm512_add_ps(sum, sums[m][h][kParts - 1]);
                total[m][h] = _mm512_fmadd_ps(sum, scale, total[m][h]);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) _mm512_storeu_ps(y + m * y_stride + 16 * h, total[m][h]);
}

// Rows behind the last whole block.
void multiply_tail(const float* x, int64_t rows, const QuantizedMatrix& weight, int64_t row_begin,
                   int64_t row_end, float* y, int64_t y_stride) {
    constexpr int64_t kChunk = 512;
    alignas(64) float w[kChunk];
    for (int64_t n = row_begin; n < row_end; n++) {
        for (int64_t m = 0; m < rows; m++) y[m * y_stride + n] = 0;
        for (int64_t k = 0; k < weight.columns; k += kChunk) {
            const int64_t count = weight.columns - k < kChunk ? weight.columns - k : kChunk;
            dequantize(weight, n, k, count, w);
            for (int64_t i = count; i < kChunk; i++) w[i] = 0;
            for (int64_t m = 0; m < rows; m++) {
                __m512 sum = _mm512_setzero_ps();
                for (int64_t i = 0; i < count; i += 16) {
                    const __mmask16 mask = count - i < 16 ? (1 << (count - i)) - 1 : 0xFFFF;
                    const __m512 inputs = _mm512_maskz_loadu_ps(mask, x + m * weight.columns + k + i);
                    sum = _mm512_fmadd_ps(inputs, _mm512_load_ps(w + i), sum);
                }
                y[m * y_stride + n] += _mm512_reduce_add_ps(sum);
            }
        }
    }
}

template <int kBits, int kRows>
void few_rows(const float* x, const QuantizedMatrix& weight, int64_t row_begin, int64_t row_end, float* y,
              int64_t y_stride) {
    int64_t n = row_begin;
    for (; n + kBlockRows <= row_end; n += kBlockRows)
        multiply_block<kBits, kRows>(x, weight.columns, weight.group_size,
                                     weight.block_values(n / kBlockRows), weight.block_scales(n / kBlockRows),
                                     y + n, y_stride);
    multiply_tail(x, kRows, weight, n, row_end, y, y_stride);
}

using FewRows = void (*)(const float*, const QuantizedMatrix&, int64_t, int64_t, float*, int64_t);

template <int kBits>
constexpr FewRows kFunctions[] = {few_rows<kBits, 1>, few_rows<kBits, 2>, few_rows<kBits, 3>,
                                  few_rows<kBits, 4>};
static_assert(kFewRows == 4, "a function per number of rows");

void quantized_few_rows(const float* x, int64_t rows, const QuantizedMatrix& weight, int64_t row_begin,
                        int64_t row_end, float* y, int64_t y_stride) {
    (weight.bits == 4 ? kFunctions<4> : kFunctions<8>)[rows - 1](x, weight, row_begin, row_end, y, y_stride);
}

}  // namespace

void fill_few_rows_avx512(KernelTable& table) { table.floats.quantized_few_rows = quantized_few_rows; }

}  // namespace paddle_glm
