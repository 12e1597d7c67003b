// Products in int8 by NEON's dot products.
//
// Tested by emulation only (qemu), never timed.
#include <arm_neon.h>

#include "int8_matmul.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int kTileRows = 4;
constexpr int kColumns = 4;  // registers of 4 weight rows in half a block

inline int8x16_t broadcast(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

// y[m..m+R) of half a block.
template <int BITS, int R>
void tile(const QuantizedMatrix& weight, const Parts& parts, int64_t block, int half,
          const Int8Activations& x, int64_t m, float* y) {
    constexpr int kLine = BITS == 4 ? 8 : 4;
    const uint8_t* lines = weight.block_values(block) + half * kLineBytes;
    const float* block_scales = weight.block_scales(block) + 16 * half;
    float32x4_t totals[R][kColumns] = {};
    for (int64_t part = 0; part < parts.count; part++) {
        const int64_t at = part * x.rows + m;
        const int8_t* values = x.values + at * x.stride;
        int32x4_t sums[R][kColumns];
        // 8 bits get their sign back, so there is nothing to correct.
        for (int r = 0; r < R; r++)
            for (int c = 0; c < kColumns; c++)
                sums[r][c] = vdupq_n_s32(BITS == 4 ? x.corrections[at + r] : 0);
        for (int64_t i = 0; i < parts.length(part); i += kLine, lines += 2 * kLineBytes) {
            int8x16_t w[kColumns][BITS == 4 ? 2 : 1];
            for (int c = 0; c < kColumns; c++) {
                const uint8x16_t line = vld1q_u8(lines + 16 * c);
                if constexpr (BITS == 4) {
                    w[c][0] = vreinterpretq_s8_u8(vandq_u8(line, vdupq_n_u8(15)));
                    w[c][1] = vreinterpretq_s8_u8(vshrq_n_u8(line, 4));
                } else {
                    w[c][0] = vreinterpretq_s8_u8(veorq_u8(line, vdupq_n_u8(128)));
                }
            }
            for (int r = 0; r < R; r++)
                for (int t = 0; t < kLine / 4; t++) {
                    const int8x16_t v = broadcast(values + r * x.stride + i + 4 * t);
                    for (int c = 0; c < kColumns; c++) sums[r][c] = vdotq_s32(sums[r][c], w[c][t], v);
                }
        }
        const float* scales = block_scales + part / parts.per_group * kBlockRows;
        for (int c = 0; c < kColumns; c++) {
            const float32x4_t scale = vld1q_f32(scales + 4 * c);
            for (int r = 0; r < R; r++)
                totals[r][c] =
                    vfmaq_f32(totals[r][c], vcvtq_f32_s32(sums[r][c]), vmulq_n_f32(scale, x.scales[at + r]));
        }
    }
    float* out = y + m * weight.rows + block * kBlockRows + 16 * half;
    for (int r = 0; r < R; r++, out += weight.rows)
        for (int c = 0; c < kColumns; c++) vst1q_f32(out + 4 * c, totals[r][c]);
}

using Tile = void (*)(const QuantizedMatrix&, const Parts&, int64_t, int, const Int8Activations&, int64_t,
                      float*);

template <int BITS>
constexpr Tile kTiles[kTileRows] = {tile<BITS, 1>, tile<BITS, 2>, tile<BITS, 3>, tile<BITS, 4>};

void matmul_int8(const Int8Activations& x, const QuantizedMatrix& weight, int64_t block_begin,
                 int64_t block_end, float* y) {
    const Parts parts(weight);
    const Tile* functions = weight.bits == 4 ? kTiles<4> : kTiles<8>;
    const Tiles tiles(x.rows, kTileRows);
    for (int64_t block = block_begin; block < block_end; block++)
        for (int64_t i = 0; i < tiles.count; i++)
            for (int half = 0; half < 2; half++)
                functions[tiles.size(i) - 1](weight, parts, block, half, x, tiles.begin(i), y);
}

}  // namespace

void fill_int8_neon(KernelTable& table) { table.matmul_int8 = matmul_int8; }

}  // namespace paddle_glm
