// One row to a few in float32 arithmetic, with weights of any kind.
#include "decode_avx2.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// Inputs whose products are added in one sum before it joins the total: keeps rounding errors small.
constexpr int64_t kSumInputs = 512;

inline float total(__m256 v) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}

// y[m][0..8C) of C registers of weight rows of one block; values and scales point at the first.
template <int kBits, int kRows, int C>
void multiply_block(const float* x, int64_t columns, int64_t group_size, const uint8_t* values,
                    const float* scales, float* y, int64_t y_stride) {
    constexpr int kInputs = Line<kBits>::kInputs;
    alignas(32) float totals[kRows][8 * C] = {};
    for (int64_t k = 0; k < columns;) {
        const int64_t group = k / group_size, group_end = (group + 1) * group_size;
        const int64_t end = group_end - k < kSumInputs ? group_end : k + kSumInputs;
        __m256 sums[kRows][C];
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++)
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) sums[m][c] = _mm256_setzero_ps();
        for (; k < end; k += kInputs, values += 2 * kLineBytes) {
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) {
                const Line<kBits> line(values + 32 * c);
#pragma GCC unroll 8
                for (int t = 0; t < kInputs; t++) {
                    const __m256 w = line.input(t);
#pragma GCC unroll 4
                    for (int m = 0; m < kRows; m++)
                        sums[m][c] = _mm256_fmadd_ps(_mm256_set1_ps(x[m * columns + k + t]), w, sums[m][c]);
                }
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            const __m256 scale = _mm256_loadu_ps(scales + group * kBlockRows + 8 * c);
#pragma GCC unroll 4
            for (int m = 0; m < kRows; m++) {
                float* out = totals[m] + 8 * c;
                _mm256_store_ps(out, _mm256_fmadd_ps(sums[m][c], scale, _mm256_load_ps(out)));
            }
        }
    }
    for (int m = 0; m < kRows; m++)
        for (int c = 0; c < C; c++)
            _mm256_storeu_ps(y + m * y_stride + 8 * c, _mm256_load_ps(totals[m] + 8 * c));
}

// Rows behind the last whole block.
void multiply_tail(const float* x, int64_t rows, const QuantizedMatrix& weight, int64_t row_begin,
                   int64_t row_end, float* y, int64_t y_stride) {
    alignas(32) float w[kSumInputs];
    for (int64_t n = row_begin; n < row_end; n++)
        for (int64_t k = 0; k < weight.columns; k += kSumInputs) {
            const int64_t rest = weight.columns - k, count = rest < kSumInputs ? rest : kSumInputs;
            dequantize(weight, n, k, count, w);
            for (int64_t m = 0; m < rows; m++) {
                const float* inputs = x + m * weight.columns + k;
                __m256 sums = _mm256_setzero_ps();
                int64_t i = 0;
                for (; i + 8 <= count; i += 8)
                    sums = _mm256_fmadd_ps(_mm256_loadu_ps(inputs + i), _mm256_load_ps(w + i), sums);
                float sum = total(sums);
                for (; i < count; i++) sum += inputs[i] * w[i];
                y[m * y_stride + n] = k == 0 ? sum : y[m * y_stride + n] + sum;
            }
        }
}

template <int kBits, int kRows>
void few_rows(const float* x, const QuantizedMatrix& weight, int64_t row_begin, int64_t row_end, float* y,
              int64_t y_stride) {
    constexpr int kColumns = kRows <= 2 ? 4 : 2;  // as many sums as there are registers for
    int64_t n = row_begin;
    for (; n + kBlockRows <= row_end; n += kBlockRows)
        for (int64_t r = 0; r < kBlockRows; r += 8 * kColumns)
            multiply_block<kBits, kRows, kColumns>(
                x, weight.columns, weight.group_size, weight.block_values(n / kBlockRows) + 4 * r,
                weight.block_scales(n / kBlockRows) + r, y + n + r, y_stride);
    multiply_tail(x, kRows, weight, n, row_end, y, y_stride);
}

// y[m][n..n + kWeights) for rows of floating point weights from w on.
template <FloatType kType, int kWeights, int kRows>
void multiply_floats(const float* x, const Number<kType>* w, int64_t columns, float* y, int64_t y_stride) {
    __m256 sums[kWeights][kRows];
#pragma GCC unroll 4
    for (int n = 0; n < kWeights; n++)
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++) sums[n][m] = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + 8 <= columns; k += 8) {
        __m256 inputs[kRows];
#pragma GCC unroll 4
        for (int m = 0; m < kRows; m++) inputs[m] = _mm256_loadu_ps(x + m * columns + k);
#pragma GCC unroll 4
        for (int n = 0; n < kWeights; n++) {
            const __m256 weights = load_floats<kType>(w + n * columns + k);
#pragma GCC unroll 4
            for (int m = 0; m < kRows; m++) sums[n][m] = _mm256_fmadd_ps(weights, inputs[m], sums[n][m]);
        }
    }
    for (int n = 0; n < kWeights; n++)
        for (int m = 0; m < kRows; m++) {
            float sum = total(sums[n][m]);
            for (int64_t i = k; i < columns; i++)
                sum += to_float(w[n * columns + i], kType) * x[m * columns + i];
            y[m * y_stride + n] = sum;
        }
}

template <FloatType kType, int kRows>
void few_rows(const float* x, const FloatMatrix& weight, int64_t row_begin, int64_t row_end, float* y,
              int64_t y_stride) {
    constexpr int kWeights = kRows <= 2 ? 4 : 2;
    int64_t n = row_begin;
    for (; n + kWeights <= row_end; n += kWeights)
        multiply_floats<kType, kWeights, kRows>(x, weight.row<kType>(n), weight.columns, y + n, y_stride);
    for (; n < row_end; n++)
        multiply_floats<kType, 1, kRows>(x, weight.row<kType>(n), weight.columns, y + n, y_stride);
}

template <class Matrix>
using FewRows = void (*)(const float*, const Matrix&, int64_t, int64_t, float*, int64_t);

template <int kBits>
constexpr FewRows<QuantizedMatrix> kQuantized[] = {few_rows<kBits, 1>, few_rows<kBits, 2>, few_rows<kBits, 3>,
                                                   few_rows<kBits, 4>};
template <FloatType kType>
constexpr FewRows<FloatMatrix> kFloat[] = {few_rows<kType, 1>, few_rows<kType, 2>, few_rows<kType, 3>,
                                           few_rows<kType, 4>};
static_assert(kFewRows == 4, "a function per number of rows");

void quantized_few_rows(const float* x, int64_t rows, const QuantizedMatrix& weight, int64_t row_begin,
                        int64_t row_end, float* y, int64_t y_stride) {
    (weight.bits == 4 ? kQuantized<4> : kQuantized<8>)[rows - 1](x, weight, row_begin, row_end, y, y_stride);
}

void float_few_rows(const float* x, int64_t rows, const FloatMatrix& weight, int64_t row_begin,
                    int64_t row_end, float* y, int64_t y_stride) {
    with_type(weight.type,
              [&](auto type) { kFloat<type.value>[rows - 1](x, weight, row_begin, row_end, y, y_stride); });
}

}  // namespace

void fill_few_rows_avx2(KernelTable& table) {
    table.floats.quantized_few_rows = quantized_few_rows;
    table.floats.float_few_rows = float_few_rows;
}

}  // namespace paddle_glm
