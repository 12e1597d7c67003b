// Weights to float32 panels.
#include "decode_avx2.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// Rows [row, row + rows) behind the last whole block: panel[c * column_stride + r * row_stride].
void widen_tail(const QuantizedMatrix& weight, int64_t row, int64_t rows, int64_t column, int64_t columns,
                float* panel, int64_t row_stride, int64_t column_stride) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            dequantize(weight, row + r, column + c, 1, panel + c * column_stride + r * row_stride);
}

void clear(float* panel, int64_t depth, int64_t begin, int64_t end) {
    for (int64_t k = 0; k < depth; k++)
        for (int64_t i = begin; i < end; i++) panel[k * kPanelWidth + i] = 0;
}

// panel[c][0..7] for 8 rows of a block.
template <int kBits>
void widen_rows(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t columns, float* panel) {
    constexpr int kInputs = Line<kBits>::kInputs;
    const int64_t block = row / kBlockRows, r = row % kBlockRows;
    const uint8_t* values = weight.block_values(block) + column / kInputs * 2 * kLineBytes + 4 * r;
    Scales scales(weight.block_scales(block) + r, weight.group_size, column);
    for (int64_t c = 0; c < columns; c += kInputs, values += 2 * kLineBytes) {
        const __m256 scale = scales.at(column + c);
        const Line<kBits> line(values);
#pragma GCC unroll 8
        for (int t = 0; t < kInputs; t++)
            _mm256_storeu_ps(panel + (c + t) * kPanelWidth, _mm256_mul_ps(line.input(t), scale));
    }
}

// panel[0..7][c] for the same; columns are a multiple of 4.
template <int kBits>
void widen_rows_transposed(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t columns,
                           float* panel) {
    constexpr int kInputs = Line<kBits>::kInputs;
    const int64_t block = row / kBlockRows, r = row % kBlockRows;
    const uint8_t* values = weight.block_values(block) + column / kInputs * 2 * kLineBytes + 4 * r;
    Scales scales(weight.block_scales(block) + r, weight.group_size, column);
    for (int64_t c = 0; c < columns; c += 8) {
        __m256 v[8] = {};
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += kInputs, values += 2 * kLineBytes) {
            if (c + i >= columns) continue;
            const __m256 scale = scales.at(column + c + i);
            const Line<kBits> line(values);
#pragma GCC unroll 8
            for (int t = 0; t < kInputs; t++) v[i + t] = _mm256_mul_ps(line.input(t), scale);
        }
        transpose(v);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) _mm256_storeu_ps(panel + i * kPanelWidth + c, v[i]);
    }
}

// Rows of a tile that are in whole blocks.
int64_t packed_rows(const QuantizedMatrix& weight, const WeightTile& tile) {
    const int64_t packed = weight.blocks() * kBlockRows - tile.row;
    return packed < tile.rows ? (packed < 0 ? 0 : packed) : tile.rows;
}

void widen_quantized(const QuantizedMatrix& weight, const WeightTile& tile, float* panel) {
    const int64_t packed = packed_rows(weight, tile);
    const auto rows = weight.bits == 4 ? widen_rows<4> : widen_rows<8>;
    for (int64_t r = 0; r < packed; r += 8) rows(weight, tile.row + r, tile.column, tile.columns, panel + r);
    clear(panel, tile.columns, tile.rows, kPanelWidth);
    widen_tail(weight, tile.row + packed, tile.rows - packed, tile.column, tile.columns, panel + packed, 1,
               kPanelWidth);
}

void widen_quantized_transposed(const QuantizedMatrix& weight, const WeightTile& tile, float* panel) {
    const int64_t packed = packed_rows(weight, tile);
    const auto rows = weight.bits == 4 ? widen_rows_transposed<4> : widen_rows_transposed<8>;
    clear(panel, tile.rows, tile.columns, kPanelWidth);
    for (int64_t r = 0; r < packed; r += 8)
        rows(weight, tile.row + r, tile.column, tile.columns, panel + r * kPanelWidth);
    widen_tail(weight, tile.row + packed, tile.rows - packed, tile.column, tile.columns,
               panel + packed * kPanelWidth, kPanelWidth, 1);
}

template <HalfType kType>
void widen(const HalfMatrix& weight, const WeightTile& tile, float* panel) {
    for (int64_t r = 0; r < kPanelWidth; r += 8)
        for (int64_t c = 0; c < tile.columns; c += 8) {
            const int64_t left = tile.columns - c, rows = tile.rows - r;
            __m256 v[8] = {};
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                if (i < rows) v[i] = load_half<kType>(weight.row(tile.row + r + i) + tile.column + c, left);
            transpose(v);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                if (i < left) _mm256_storeu_ps(panel + (c + i) * kPanelWidth + r, v[i]);
        }
}

template <HalfType kType>
void widen_transposed(const HalfMatrix& weight, const WeightTile& tile, float* panel) {
    for (int64_t r = 0; r < tile.rows; r++, panel += kPanelWidth) {
        const uint16_t* values = weight.row(tile.row + r) + tile.column;
        for (int64_t c = 0; c < kPanelWidth; c += 8)
            _mm256_storeu_ps(panel + c, load_half<kType>(values + c, tile.columns - c));
    }
}

void widen_half(const HalfMatrix& weight, const WeightTile& tile, float* panel) {
    constexpr auto kFloat16 = HalfType::kFloat16, kBfloat16 = HalfType::kBfloat16;
    (weight.type == kFloat16 ? widen<kFloat16> : widen<kBfloat16>)(weight, tile, panel);
}

void widen_half_transposed(const HalfMatrix& weight, const WeightTile& tile, float* panel) {
    constexpr auto kFloat16 = HalfType::kFloat16, kBfloat16 = HalfType::kBfloat16;
    (weight.type == kFloat16 ? widen_transposed<kFloat16> : widen_transposed<kBfloat16>)(weight, tile, panel);
}

}  // namespace

void fill_widen_avx2(KernelTable& table) {
    table.floats.widen_quantized = widen_quantized;
    table.floats.widen_quantized_transposed = widen_quantized_transposed;
    table.floats.widen_half = widen_half;
    table.floats.widen_half_transposed = widen_half_transposed;
}

}  // namespace paddle_glm
