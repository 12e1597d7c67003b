// Products in int8 by AVX512-VNNI.
#include <immintrin.h>

#include "int8_matmul.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// Rows of a tile. 12 would fit into the registers too, but the scaling behind each part then overlaps less
// with the products of the next one.
constexpr int kTileRows = 6;
constexpr int kHalves = 2;  // registers of 16 weight rows in a block

// As an instruction of its own: for the intrinsic GCC 12 copies the sums about.
inline void dot(__m512i& sum, __m512i weights, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
}

inline __m512i broadcast(const int8_t* x) {
    __m512i out;
    __asm__("vpbroadcastd %1, %0" : "=v"(out) : "m"(*reinterpret_cast<const int32_t*>(x)));
    return out;
}

inline void add_scaled(float* total, __m512i sum, __m512 scale) {
    _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_load_ps(total)));
}

// Row `r` of a tile, by addresses that one instruction can hold: a base per three rows, and the stride.
template <int R>
struct TileRows {
    const int8_t* base[(R + 2) / 3];
    int64_t stride;

    TileRows(const int8_t* x, int64_t stride) : stride(stride) {
        for (int i = 0; i < (R + 2) / 3; i++) base[i] = x + 3 * i * stride;
    }
    const int8_t* at(int r) const { return base[r / 3] + r % 3 * stride; }
    void advance(int64_t inputs) {
        for (auto& one : base) one += inputs;
    }
};

// y[m..m+R) of one block: y is float32 with `y_stride` values per row.
template <int BITS, int R>
void tile(const QuantizedMatrix& weight, const Parts& parts, int64_t block, const Int8Activations& x,
          int64_t m, float* y) {
    constexpr int kLine = BITS == 4 ? 8 : 4;
    const __m512i low = _mm512_set1_epi8(15);
    const uint8_t* lines = weight.block_values(block);
    const float* block_scales = weight.block_scales(block);
    const bool grouped = parts.per_group < parts.count;
    alignas(64) float totals[R][kBlockRows] = {};
    for (int64_t part = 0; part < parts.count; part++) {
        const int32_t* corrections = x.corrections + part * x.rows + m;
        __m512i sums[R][kHalves];
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) sums[r][0] = sums[r][1] = _mm512_set1_epi32(corrections[r]);
        TileRows<R> rows(x.part_values(part) + m * x.stride, x.stride);
        for (int64_t i = parts.length(part); i > 0; i -= kLine) {
            const __m512i w0 = _mm512_loadu_si512(lines), w1 = _mm512_loadu_si512(lines + kLineBytes);
            const __m512i l0 = BITS == 4 ? _mm512_and_si512(w0, low) : w0;
            const __m512i l1 = BITS == 4 ? _mm512_and_si512(w1, low) : w1;
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                const __m512i v = broadcast(rows.at(r));
                dot(sums[r][0], l0, v);
                dot(sums[r][1], l1, v);
            }
            if (BITS == 4) {
                const __m512i h0 = _mm512_and_si512(_mm512_srli_epi16(w0, 4), low);
                const __m512i h1 = _mm512_and_si512(_mm512_srli_epi16(w1, 4), low);
#pragma GCC unroll 6
                for (int r = 0; r < R; r++) {
                    const __m512i v = broadcast(rows.at(r) + 4);
                    dot(sums[r][0], h0, v);
                    dot(sums[r][1], h1, v);
                }
            }
            lines += 2 * kLineBytes;
            rows.advance(kLine);
        }
        // Weights with one scale per output are scaled at the end.
        const float* scales = block_scales + part / parts.per_group * kBlockRows;
        const float* x_scales = x.scales + part * x.rows + m;
        const __m512 s0 = _mm512_loadu_ps(scales), s1 = _mm512_loadu_ps(scales + 16);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            const __m512 s = _mm512_set1_ps(x_scales[r]);
            add_scaled(totals[r], sums[r][0], grouped ? _mm512_mul_ps(s, s0) : s);
            add_scaled(totals[r] + 16, sums[r][1], grouped ? _mm512_mul_ps(s, s1) : s);
        }
    }
    const __m512 one = _mm512_set1_ps(1);
    const __m512 s0 = grouped ? one : _mm512_loadu_ps(block_scales);
    const __m512 s1 = grouped ? one : _mm512_loadu_ps(block_scales + 16);
    float* out = y + m * weight.rows + block * kBlockRows;
    for (int r = 0; r < R; r++, out += weight.rows) {
        _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_load_ps(totals[r]), s0));
        _mm512_storeu_ps(out + 16, _mm512_mul_ps(_mm512_load_ps(totals[r] + 16), s1));
    }
}

using Tile = void (*)(const QuantizedMatrix&, const Parts&, int64_t, const Int8Activations&, int64_t, float*);

template <int BITS>
constexpr Tile kTiles[] = {tile<BITS, 1>, tile<BITS, 2>, tile<BITS, 3>,
                           tile<BITS, 4>, tile<BITS, 5>, tile<BITS, 6>};

// Lanes of a vector at the end of a part of `rest` inputs.
inline __mmask16 lanes(int64_t rest) {
    return rest >= 16 ? static_cast<__mmask16>(-1) : static_cast<__mmask16>((1 << rest) - 1);
}

float quantize_part(const float* x, int64_t count, int8_t* values, int32_t* sum) {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    __m512i most_bits = _mm512_setzero_si512();  // bits of |x| are in the order of |x|, NaN above all
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(lanes(count - i), x + i);
        most_bits = _mm512_max_epi32(most_bits, _mm512_and_si512(_mm512_castps_si512(v), no_sign));
    }
    const float most =
        _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(_mm512_reduce_max_epi32(most_bits))));
    const bool finite = most <= __FLT_MAX__;  // false for NaN
    const float factor = finite && most >= kSmallestActivation ? 127.0f / most : 0.0f;
    __m512i sums = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = lanes(count - i);
        const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(factor));
        const __m512i v = _mm512_cvtps_epi32(scaled);
        sums = _mm512_add_epi32(sums, v);
        _mm_mask_storeu_epi8(values + i, mask, _mm512_cvtepi32_epi8(v));
    }
    *sum = finite ? _mm512_reduce_add_epi32(sums) : 0;
    if (!finite) return __builtin_nanf("");
    return factor == 0 ? 0.0f : most / 127.0f;
}

void matmul_int8(const Int8Activations& x, const QuantizedMatrix& weight, int64_t block_begin,
                 int64_t block_end, float* y) {
    const Parts parts(weight);
    const Tile* functions = weight.bits == 4 ? kTiles<4> : kTiles<8>;
    const Tiles tiles(x.rows, kTileRows);
    for (int64_t block = block_begin; block < block_end; block++)
        for (int64_t i = 0; i < tiles.count; i++)
            functions[tiles.size(i) - 1](weight, parts, block, x, tiles.begin(i), y);
}

}  // namespace

void fill_int8_avx512(KernelTable& table) {
    table.quantize_part = quantize_part;
    table.matmul_int8 = matmul_int8;
}

}  // namespace paddle_glm
