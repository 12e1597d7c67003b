// Products in int8 by AVX2: pairs of products in 16 bits.
#include <immintrin.h>

#include "int8_matmul.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int kTileRows = 4;
constexpr int kColumns = 4;  // registers of 8 weight rows in a block
// Lines of 4-bit weights whose products one 16-bit sum holds: 4 * 4 * 15 * 127 < 2^15.
constexpr int64_t kSumLines = 4;

inline __m256i load(const void* address) { return _mm256_loadu_si256(static_cast<const __m256i*>(address)); }

inline __m256i broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

// Sums of 8 weight rows times R rows of x, for C registers of weight rows.
template <int R, int C>
using Sums = __m256i[R][C];

// 4 bits: `lines` lines, 8 inputs each, at `x` of the tile's first row.
template <int R, int C>
inline void add_lines(const uint8_t* weights, int64_t lines, const int8_t* x, int64_t stride,
                      Sums<R, C>& sums) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    while (lines > 0) {
        __m256i pairs[R][C];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) pairs[r][c] = _mm256_setzero_si256();
        const int64_t count = lines < kSumLines ? lines : kSumLines;
        for (int64_t j = 0; j < count; j++, weights += 2 * kLineBytes, x += 8) {
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) {
                const __m256i w = load(weights + 32 * c);
                const __m256i w0 = _mm256_and_si256(w, low);
                const __m256i w1 = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    const int8_t* row = x + r * stride;
                    const __m256i p0 = _mm256_maddubs_epi16(w0, broadcast(row));
                    const __m256i p1 = _mm256_maddubs_epi16(w1, broadcast(row + 4));
                    pairs[r][c] = _mm256_add_epi16(pairs[r][c], _mm256_add_epi16(p0, p1));
                }
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int c = 0; c < C; c++)
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(pairs[r][c], ones));
        lines -= count;
    }
}

// 8 bits: lines of 4 inputs. The multiplication takes weights without sign and x with it, so x takes over the
// weights' signs: 2 * 128 * 127 < 2^15.
template <int R, int C>
inline void add_wide_lines(const uint8_t* weights, int64_t lines, const int8_t* x, int64_t stride,
                           Sums<R, C>& sums) {
    const __m256i flip = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
    for (int64_t j = 0; j < lines; j++, weights += 2 * kLineBytes, x += 4) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            const __m256i w = _mm256_xor_si256(load(weights + 32 * c), flip);
            const __m256i size = _mm256_abs_epi8(w);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m256i v = _mm256_sign_epi8(broadcast(x + r * stride), w);
                const __m256i pairs = _mm256_maddubs_epi16(size, v);
                sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

// y[m..m+R) of registers [column, column + C) of one block.
template <int BITS, int R, int C>
void tile(const QuantizedMatrix& weight, const Parts& parts, int64_t block, int column,
          const Int8Activations& x, int64_t m, float* y) {
    constexpr int kLine = BITS == 4 ? 8 : 4;
    const uint8_t* lines = weight.block_values(block) + 32 * column;
    const float* block_scales = weight.block_scales(block) + 8 * column;
    alignas(32) float totals[R][8 * C] = {};
    for (int64_t part = 0; part < parts.count; part++) {
        const int64_t at = part * x.rows + m, count = parts.length(part) / kLine;
        const int8_t* values = x.values + at * x.stride;
        Sums<R, C> sums;
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) sums[r][c] = _mm256_set1_epi32(BITS == 4 ? x.corrections[at + r] : 0);
        if (BITS == 4)
            add_lines<R, C>(lines, count, values, x.stride, sums);
        else
            add_wide_lines<R, C>(lines, count, values, x.stride, sums);
        lines += count * 2 * kLineBytes;
        const float* scales = block_scales + part / parts.per_group * kBlockRows;
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            const __m256 scale = _mm256_loadu_ps(scales + 8 * c);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m256 product = _mm256_mul_ps(_mm256_set1_ps(x.scales[at + r]), scale);
                float* total = totals[r] + 8 * c;
                _mm256_store_ps(
                    total, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[r][c]), product, _mm256_load_ps(total)));
            }
        }
    }
    float* out = y + m * weight.rows + block * kBlockRows + 8 * column;
    for (int r = 0; r < R; r++, out += weight.rows)
        for (int c = 0; c < C; c++) _mm256_storeu_ps(out + 8 * c, _mm256_load_ps(totals[r] + 8 * c));
}

using Tile = void (*)(const QuantizedMatrix&, const Parts&, int64_t, int, const Int8Activations&, int64_t,
                      float*);

// By rows: as many weight rows at once as there are registers for.
constexpr int kTileColumns[] = {4, 4, 2, 2};
template <int BITS>
constexpr Tile kTiles[] = {tile<BITS, 1, 4>, tile<BITS, 2, 4>, tile<BITS, 3, 2>, tile<BITS, 4, 2>};

void matmul_int8(const Int8Activations& x, const QuantizedMatrix& weight, int64_t block_begin,
                 int64_t block_end, float* y) {
    const Parts parts(weight);
    const Tile* functions = weight.bits == 4 ? kTiles<4> : kTiles<8>;
    const Tiles tiles(x.rows, kTileRows);
    for (int64_t block = block_begin; block < block_end; block++)
        for (int64_t i = 0; i < tiles.count; i++) {
            const int64_t rows = tiles.size(i);
            for (int column = 0; column < kColumns; column += kTileColumns[rows - 1])
                functions[rows - 1](weight, parts, block, column, x, tiles.begin(i), y);
        }
}

// Up to 8 values at the end of a part; others are 0.
inline __m256 load_part(const float* x, int64_t rest) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int count = rest < 8 ? static_cast<int>(rest) : 8;
    return _mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes));
}

inline __m128i halves(__m256i v, __m128i (*merge)(__m128i, __m128i)) {
    return merge(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

float quantize_part(const float* x, int64_t count, int8_t* values, int32_t* sum) {
    const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
    __m256i most_bits = _mm256_setzero_si256();  // bits of |x| are in the order of |x|, NaN above all
    for (int64_t i = 0; i < count; i += 8)
        most_bits = _mm256_max_epi32(
            most_bits, _mm256_and_si256(_mm256_castps_si256(load_part(x + i, count - i)), no_sign));
    __m128i best = halves(most_bits, [](__m128i a, __m128i b) { return _mm_max_epi32(a, b); });
    best = _mm_max_epi32(best, _mm_shuffle_epi32(best, 0x4e));
    best = _mm_max_epi32(best, _mm_shuffle_epi32(best, 0xb1));
    const float most = _mm_cvtss_f32(_mm_castsi128_ps(best));
    const bool finite = most <= __FLT_MAX__;  // false for NaN
    const float factor = finite && most >= kSmallestActivation ? 127.0f / most : 0.0f;
    __m256i sums = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += 8) {
        const __m256 scaled = _mm256_mul_ps(load_part(x + i, count - i), _mm256_set1_ps(factor));
        const __m256i v = _mm256_cvtps_epi32(scaled);
        sums = _mm256_add_epi32(sums, v);
        const __m128i words = halves(v, [](__m128i a, __m128i b) { return _mm_packs_epi32(a, b); });
        const int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
        __builtin_memcpy(values + i, &bytes, count - i < 8 ? 4 : 8);
    }
    __m128i total = halves(sums, [](__m128i a, __m128i b) { return _mm_add_epi32(a, b); });
    total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4e));
    total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0xb1));
    *sum = finite ? _mm_cvtsi128_si32(total) : 0;
    if (!finite) return __builtin_nanf("");
    return factor == 0 ? 0.0f : most / 127.0f;
}

}  // namespace

void fill_int8_avx2(KernelTable& table) {
    table.quantize_part = quantize_part;
    table.matmul_int8 = matmul_int8;
}

}  // namespace paddle_glm
