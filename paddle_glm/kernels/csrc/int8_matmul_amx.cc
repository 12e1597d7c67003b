// Products in int8 by AMX: tiles of 16 rows of x by 16 rows of weights, for many rows of x.
//
// Tested by emulation only (amx_emulation.h), never timed.
#include <immintrin.h>

#include "amx_tiles.h"
#include "int8_matmul.h"
#include "kernels.h"
#include "scratch.h"

namespace paddle_glm {
namespace {

constexpr int64_t kManyRows = 16;         // from here on tiles are filled
constexpr int64_t kRows = 2 * kTileRows;  // rows of x at once, beside one block of weights

decltype(KernelTable::matmul_int8) multiply_few_rows;

// A block of weights as tiles: [parts][steps][2][16][64] bytes, a step being 64 inputs, zero behind a part.
struct Block {
    uint8_t* tiles;
    int64_t steps;  // of a part

    uint8_t* tile(int64_t part, int64_t step, int half) const {
        return tiles + ((part * steps + step) * 2 + half) * kTileBytes;
    }
};

template <int BITS>
void unpack(const uint8_t* lines, const Parts& parts, const Block& block) {
    constexpr int64_t kLine = BITS == 4 ? 8 : 4;
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t part = 0; part < parts.count; part++)
        for (int64_t i = 0; i < block.steps * kTileRowBytes; i += kLine) {
            const bool inside = i < parts.length(part);
            for (int half = 0; half < 2; half++) {
                uint8_t* out =
                    block.tile(part, i / kTileRowBytes, half) + i % kTileRowBytes / 4 * kTileRowBytes;
                const __m512i line =
                    inside ? _mm512_loadu_si512(lines + half * kLineBytes) : _mm512_setzero_si512();
                _mm512_store_si512(out, BITS == 4 ? _mm512_and_si512(line, low) : line);
                if (BITS == 4)
                    _mm512_store_si512(out + kTileRowBytes,
                                       _mm512_and_si512(_mm512_srli_epi16(line, 4), low));
            }
            if (inside) lines += 2 * kLineBytes;
        }
}

// Tiles 0-3: sums of two tiles of x by two of weights; 4, 5: x; 6, 7: weights.
TileConfig config(int64_t rows) {
    TileConfig result;
    const int64_t first = rows < kTileRows ? rows : kTileRows, second = rows - first;
    for (int half = 0; half < 2; half++) {
        result.set(half, first, kTileRowBytes);
        if (second > 0) result.set(2 + half, second, kTileRowBytes);
        result.set(6 + half, kTileRows, kTileRowBytes);
    }
    result.set(4, first, kTileRowBytes);
    if (second > 0) result.set(5, second, kTileRowBytes);
    return result;
}

// totals[r] += sums of row r, scaled; sums: int32 [rows, 16]. scales: null for 1.
void add_scaled(const int32_t* sums, int64_t rows, const int32_t* corrections, const float* x_scales,
                const float* scales, float* totals) {
    const __m512 scale = scales == nullptr ? _mm512_set1_ps(1) : _mm512_loadu_ps(scales);
    for (int64_t r = 0; r < rows; r++, sums += 16, totals += kBlockRows) {
        const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums), _mm512_set1_epi32(corrections[r]));
        const __m512 product = _mm512_mul_ps(_mm512_set1_ps(x_scales[r]), scale);
        _mm512_store_ps(totals, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), product, _mm512_load_ps(totals)));
    }
}

// y[m..m+rows) of one block; up to 16 rows have one tile of x, more have two.
template <bool TWO>
void multiply_rows(const Block& block, const Parts& parts, const float* block_scales,
                   const Int8Activations& x, int64_t m, int64_t rows, float* y, int64_t y_stride) {
    alignas(64) int32_t sums[4][kTileRows * 16];
    alignas(64) float totals[kRows * kBlockRows] = {};
    // Weights with one scale per output are scaled at the end, as in the kernels of few rows.
    const bool grouped = parts.per_group < parts.count;
    for (int64_t part = 0; part < parts.count; part++) {
        const int64_t at = part * x.rows + m;
        zero_tile<0>();
        zero_tile<1>();
        if (TWO) zero_tile<2>();
        if (TWO) zero_tile<3>();
        for (int64_t step = 0; step < block.steps; step++) {
            // Bytes behind a part are of any value: the weights there are zero.
            const int8_t* values = x.values + at * x.stride + step * kTileRowBytes;
            load_tile<6>(block.tile(part, step, 0), kTileRowBytes);
            load_tile<7>(block.tile(part, step, 1), kTileRowBytes);
            load_tile<4>(values, x.stride);
            multiply_int8<0, 4, 6>();
            multiply_int8<1, 4, 7>();
            if (!TWO) continue;
            load_tile<5>(values + kTileRows * x.stride, x.stride);
            multiply_int8<2, 5, 6>();
            multiply_int8<3, 5, 7>();
        }
        store_tile<0>(sums[0], kTileRowBytes);
        store_tile<1>(sums[1], kTileRowBytes);
        if (TWO) store_tile<2>(sums[2], kTileRowBytes);
        if (TWO) store_tile<3>(sums[3], kTileRowBytes);
        const float* scales = block_scales + part / parts.per_group * kBlockRows;
        for (int i = 0; i < (TWO ? 4 : 2); i++) {
            const int64_t first = i / 2 * kTileRows, rest = rows - first, half = i % 2 * 16;
            add_scaled(sums[i], rest < kTileRows ? rest : kTileRows, x.corrections + at + first,
                       x.scales + at + first, grouped ? scales + half : nullptr,
                       totals + first * kBlockRows + half);
        }
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < kBlockRows; i += 16) {
            const __m512 scale = grouped ? _mm512_set1_ps(1) : _mm512_loadu_ps(block_scales + i);
            const __m512 total = _mm512_load_ps(totals + r * kBlockRows + i);
            _mm512_storeu_ps(y + r * y_stride + i, _mm512_mul_ps(total, scale));
        }
}

void matmul_int8(const Int8Activations& x, const QuantizedMatrix& weight, int64_t block_begin,
                 int64_t block_end, float* y) {
    if (x.rows < kManyRows) return multiply_few_rows(x, weight, block_begin, block_end, y);
    const Parts parts(weight);
    const int64_t steps = (parts.size + kTileRowBytes - 1) / kTileRowBytes;
    const Block block{scratch(Scratch::kTile, parts.count * steps * 2 * kTileBytes), steps};
    for (int64_t b = block_begin; b < block_end; b++) {
        (weight.bits == 4 ? unpack<4> : unpack<8>)(weight.block_values(b), parts, block);
        for (int64_t m = 0; m < x.rows; m += kRows) {
            const int64_t rows = x.rows - m < kRows ? x.rows - m : kRows;
            if (m == 0 || rows < kRows) load_config(config(rows));
            (rows > kTileRows ? multiply_rows<true>
                              : multiply_rows<false>)(block, parts, weight.block_scales(b), x, m, rows,
                                                      y + m * weight.rows + b * kBlockRows, weight.rows);
        }
    }
    release_tiles();
}

}  // namespace

void fill_int8_amx(KernelTable& table) {
    multiply_few_rows = table.matmul_int8;
    table.matmul_int8 = matmul_int8;
}

}  // namespace paddle_glm
