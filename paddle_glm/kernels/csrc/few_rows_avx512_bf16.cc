// One row to a few, with quantised weights in bfloat16 arithmetic.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int64_t kSumInputs = 512;  // inputs whose products are added in one sum before it joins the total

// Of every 4 inputs the order 0, 2, 1, 3: a 32-bit lane of a line of weights has inputs 0 and 2 in the same
// place of its two words, and 1 and 3 too.
void round_few_rows(const float* x, int64_t count, uint16_t* rounded) {
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 32; i++) order[i] = static_cast<uint16_t>(i / 4 * 4 + i % 2 * 2 + i / 2 % 2);
    const __m512i words = _mm512_load_si512(order);
    for (int64_t i = 0; i < count; i += 32) {
        const uint32_t mask = count - i < 32 ? (1u << (count - i)) - 1 : 0xFFFFFFFFu;
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + i);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + i + 16);
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        _mm512_mask_storeu_epi16(rounded + i, mask, _mm512_permutexvar_epi16(words, both));
    }
}

inline __m512bh broadcast_pair(const uint16_t* x) {
    int pair;
    std::memcpy(&pair, x, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

// bfloat16 of step * (nibble - offset); the second half repeats the first, since the fifth bit of an index
// is another nibble's.
__m512i nibble_table(int step, int offset) {
    alignas(64) uint16_t table[32];
    for (int i = 0; i < 32; i++) {
        const float value = static_cast<float>(step * (i % 16 - offset));
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        table[i] = static_cast<uint16_t>(bits >> 16);
    }
    return _mm512_load_si512(table);
}

// y[m][0..31] of one block of weight rows. For 8 bits a weight is the sum of 16 times its upper nibble and
// its lower one; both are exact.
template <int kBits, int kRows>
void multiply_block(const uint16_t* x, int64_t columns, int64_t group_size, const uint8_t* values,
                    const float* scales, float* y, int64_t y_stride) {
    constexpr int kInputs = kBits == 4 ? 8 : 4;
    constexpr int kParts = 2;  // independent sums, to hide latency
    constexpr int kPair[4] = {0, kBits == 4 ? 2 : 0, 1, kBits == 4 ? 3 : 1};
    const __m512i even = kBits == 4 ? nibble_table(1, 8) : nibble_table(1, 0);
    const __m512i odd = kBits == 4 ? even : nibble_table(16, 8);
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
#pragma GCC unroll 4
                for (int p = 0; p < kParts; p++) sums[m][h][p] = _mm512_setzero_ps();
        for (; k < end; k += kInputs, values += 2 * kLineBytes) {
            const __m512i lines[2] = {_mm512_loadu_si512(values), _mm512_loadu_si512(values + kLineBytes)};
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) {
                __m512bh w[2];
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++)
                    w[h] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(lines[h], 4 * q),
                                                              q % 2 == 0 ? even : odd);
#pragma GCC unroll 4
                for (int m = 0; m < kRows; m++) {
                    const __m512bh pair = broadcast_pair(x + m * columns + k + 2 * kPair[q]);
#pragma GCC unroll 2
                    for (int h = 0; h < 2; h++) {
                        __m512& sum = sums[m][h][q % kParts];
                        sum = _mm512_dpbf16_ps(sum, w[h], pair);
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
#pragma GCC unroll 4
                for (int p = 1; p < kParts; p++) sum = _mm512_add_ps(sum, sums[m][h][p]);
                total[m][h] = _mm512_fmadd_ps(sum, scale, total[m][h]);
            }
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) _mm512_storeu_ps(y + m * y_stride + 16 * h, total[m][h]);
}

template <int kBits, int kRows>
void few_rows(const uint16_t* x, const QuantizedMatrix& weight, int64_t block_begin, int64_t block_end,
              float* y, int64_t y_stride) {
    for (int64_t block = block_begin; block < block_end; block++)
        multiply_block<kBits, kRows>(x, weight.columns, weight.group_size, weight.block_values(block),
                                     weight.block_scales(block), y + block * kBlockRows, y_stride);
}

using FewRows = void (*)(const uint16_t*, const QuantizedMatrix&, int64_t, int64_t, float*, int64_t);

template <int kBits>
constexpr FewRows kFunctions[] = {few_rows<kBits, 1>, few_rows<kBits, 2>, few_rows<kBits, 3>,
                                  few_rows<kBits, 4>};
static_assert(kFewRows == 4, "a function per number of rows");

void quantized_few_rows(const uint16_t* x, int64_t rows, const QuantizedMatrix& weight, int64_t block_begin,
                        int64_t block_end, float* y, int64_t y_stride) {
    (weight.bits == 4 ? kFunctions<4> : kFunctions<8>)[rows - 1](x, weight, block_begin, block_end, y,
                                                                 y_stride);
}

}  // namespace

void fill_few_rows_avx512_bf16(KernelTable& table) {
    table.floats.round_few_rows = round_few_rows;
    table.floats.quantized_few_rows_bfloat16 = quantized_few_rows;
}

}  // namespace paddle_glm
