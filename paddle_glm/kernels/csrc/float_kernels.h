// Kernels of products in float32 and bfloat16 arithmetic, with quantised and with half precision weights.
//
// Up to kTiledRows rows of x: weights are converted in registers while they are read, for kFewRows rows at a
// time; the sums of a row do not depend on the number of rows. More rows: a panel of kPanelWidth outputs is
// widened into a buffer that stays in the cache, [depth][kPanelWidth], and multiplied by register-blocked
// kernels. All four products (two kinds of weights, as they are and transposed) share the panels' format and
// the kernels that multiply.
#pragma once

#include "float_types.h"
#include "layout.h"

namespace paddle_glm {

constexpr int64_t kPanelWidth = 64;
constexpr int64_t kPanelDepth =
    512;  // at most; 128 KB of float32, so that a core's second-level cache keeps it
constexpr int64_t kFewRows = 4;
constexpr int64_t kTiledRows = 16;

// A part of a weight, at most kPanelWidth by kPanelDepth or the other way round. Rows begin at whole blocks
// (kBlockRows), columns at multiples of 64.
struct WeightTile {
    int64_t row, column, rows, columns;
};

struct FloatKernels {
    // y = x weight^T for weight rows [row_begin, row_end), row_begin at a whole block. x: float32 [1 to
    // kFewRows, columns]; y: float32 [rows, y_stride], of which columns row_begin..row_end are written.
    // Sums are float32, weights and x are not rounded.
    void (*quantized_few_rows)(const float* x, int64_t rows, const QuantizedMatrix& weight, int64_t row_begin,
                               int64_t row_end, float* y, int64_t y_stride);
    void (*float_few_rows)(const float* x, int64_t rows, const FloatMatrix& weight, int64_t row_begin,
                           int64_t row_end, float* y, int64_t y_stride);

    // panel[c][r] = weight[tile.row + r][tile.column + c], zero for tile.rows <= r < kPanelWidth.
    void (*widen_quantized)(const QuantizedMatrix& weight, const WeightTile& tile, float* panel);
    void (*widen_float)(const FloatMatrix& weight, const WeightTile& tile, float* panel);

    // panel[r][c] = weight[tile.row + r][tile.column + c], zero for tile.columns <= c < kPanelWidth.
    void (*widen_quantized_transposed)(const QuantizedMatrix& weight, const WeightTile& tile, float* panel);
    void (*widen_float_transposed)(const FloatMatrix& weight, const WeightTile& tile, float* panel);

    // y (+)= x panel. x: float32 [rows, x_stride]; panel: float32 [depth, kPanelWidth], 64-byte aligned; y:
    // float32 [rows, y_stride], of which kPanelWidth columns are written, or added to with `add`.
    void (*multiply_panel)(const float* x, int64_t x_stride, int64_t rows, const float* panel, int64_t depth,
                           float* y, int64_t y_stride, bool add);

    // bfloat16 arithmetic; null where the instruction set has no bfloat16 dot product: float32 then.

    // One row of x for the next function, in an order of its own: [count], count a multiple of 4.
    void (*round_few_rows)(const float* x, int64_t count, uint16_t* rounded);

    // As quantized_few_rows for whole blocks of weight rows. x: [rows, columns] of `round_few_rows`.
    void (*quantized_few_rows_bfloat16)(const uint16_t* x, int64_t rows, const QuantizedMatrix& weight,
                                        int64_t block_begin, int64_t block_end, float* y, int64_t y_stride);

    // float32 -> bfloat16, to nearest even.
    void (*round_bfloat16)(const float* x, int64_t count, uint16_t* rounded);

    // pairs[i][c] = panel[2i][c] | panel[2i + 1][c] << 16, as bfloat16; depth is even. pairs: uint32 [depth /
    // 2, kPanelWidth], 64-byte aligned.
    void (*pair_panel)(const float* panel, int64_t depth, uint32_t* pairs);

    // As multiply_panel. x: bfloat16 [rows, x_stride], x_stride and depth even.
    void (*multiply_panel_bfloat16)(const uint16_t* x, int64_t x_stride, int64_t rows, const uint32_t* pairs,
                                    int64_t depth, float* y, int64_t y_stride, bool add);
};

}  // namespace paddle_glm
