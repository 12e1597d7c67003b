// Weights to float32 panels with vectors of kLanes floats; see FloatKernels.
//
// For files that include decode_avx2.h or decode_avx512.h before, which give kLanes, Vector, Line, load_first
// and transpose.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace paddle_glm {
namespace {

inline Vector load(const float* from) { return Simd<kLanes>::load(from); }
inline void store(float* to, Vector v) { Simd<kLanes>::store(to, v); }

// The scales of kLanes rows of a block, along columns that only grow.
struct Scales {
    const float* next;
    int64_t group_size, group_end;
    Vector value;

    Scales(const float* scales, int64_t size, int64_t column) : group_size(size) {
        const int64_t group = column / size;
        next = scales + (group + 1) * kBlockRows;
        group_end = (group + 1) * size;
        value = load(scales + group * kBlockRows);
    }

    Vector at(int64_t column) {
        if (column == group_end) {
            value = load(next);
            next += kBlockRows;
            group_end += group_size;
        }
        return value;
    }
};

// panel[c][0..kLanes) for kLanes rows of a block from `row` on.
template <int kBits>
void widen_rows(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t columns, float* panel) {
    constexpr int kInputs = Line<kBits>::kInputs;
    const int64_t block = row / kBlockRows, r = row % kBlockRows;
    const uint8_t* values = weight.block_values(block) + column / kInputs * 2 * kLineBytes + 4 * r;
    Scales scales(weight.block_scales(block) + r, weight.group_size, column);
    for (int64_t c = 0; c < columns; c += kInputs, values += 2 * kLineBytes) {
        const Vector scale = scales.at(column + c);
        const Line<kBits> line(values);
#pragma GCC unroll 8
        for (int t = 0; t < kInputs; t++) store(panel + (c + t) * kPanelWidth, line.input(t) * scale);
    }
}

// panel[0..kLanes)[c] for the same; columns are a multiple of 4.
template <int kBits>
void widen_rows_transposed(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t columns,
                           float* panel) {
    constexpr int kInputs = Line<kBits>::kInputs;
    const int64_t block = row / kBlockRows, r = row % kBlockRows;
    const uint8_t* values = weight.block_values(block) + column / kInputs * 2 * kLineBytes + 4 * r;
    Scales scales(weight.block_scales(block) + r, weight.group_size, column);
    for (int64_t c = 0; c < columns; c += kLanes) {
        Vector v[kLanes] = {};
#pragma GCC unroll 4
        for (int i = 0; i < kLanes; i += kInputs, values += 2 * kLineBytes) {
            if (c + i >= columns) continue;
            const Vector scale = scales.at(column + c + i);
            const Line<kBits> line(values);
#pragma GCC unroll 8
            for (int t = 0; t < kInputs; t++) v[i + t] = line.input(t) * scale;
        }
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++) store(panel + i * kPanelWidth + c, v[i]);
    }
}

// Rows [row, row + rows) behind the last whole block: panel[c * column_stride + r * row_stride].
void widen_tail(const QuantizedMatrix& weight, int64_t row, int64_t rows, int64_t column, int64_t columns,
                float* panel, int64_t row_stride, int64_t column_stride) {
    float w[kPanelDepth];
    for (int64_t r = 0; r < rows; r++) {
        dequantize(weight, row + r, column, columns, w);
        for (int64_t c = 0; c < columns; c++) panel[c * column_stride + r * row_stride] = w[c];
    }
}

// Columns [begin, kPanelWidth) of a panel.
void clear(float* panel, int64_t depth, int64_t begin) {
    for (int64_t i = begin; i < kPanelWidth; i++)
        for (int64_t k = 0; k < depth; k++) panel[k * kPanelWidth + i] = 0;
}

// Rows of a tile that are in whole blocks.
int64_t packed_rows(const QuantizedMatrix& weight, const WeightTile& tile) {
    const int64_t packed = weight.blocks() * kBlockRows - tile.row;
    return packed < tile.rows ? (packed < 0 ? 0 : packed) : tile.rows;
}

void widen_quantized(const QuantizedMatrix& weight, const WeightTile& tile, float* panel) {
    const int64_t packed = packed_rows(weight, tile);
    const auto rows = weight.bits == 4 ? widen_rows<4> : widen_rows<8>;
    for (int64_t r = 0; r < packed; r += kLanes)
        rows(weight, tile.row + r, tile.column, tile.columns, panel + r);
    clear(panel, tile.columns, tile.rows);
    widen_tail(weight, tile.row + packed, tile.rows - packed, tile.column, tile.columns, panel + packed, 1,
               kPanelWidth);
}

void widen_quantized_transposed(const QuantizedMatrix& weight, const WeightTile& tile, float* panel) {
    const int64_t packed = packed_rows(weight, tile);
    const auto rows = weight.bits == 4 ? widen_rows_transposed<4> : widen_rows_transposed<8>;
    clear(panel, tile.rows, tile.columns);
    for (int64_t r = 0; r < packed; r += kLanes)
        rows(weight, tile.row + r, tile.column, tile.columns, panel + r * kPanelWidth);
    widen_tail(weight, tile.row + packed, tile.rows - packed, tile.column, tile.columns,
               panel + packed * kPanelWidth, kPanelWidth, 1);
}

template <FloatType kType>
void widen(const FloatMatrix& weight, const WeightTile& tile, float* panel) {
    for (int64_t r = 0; r < kPanelWidth; r += kLanes)
        for (int64_t c = 0; c < tile.columns; c += kLanes) {
            const int64_t left = tile.columns - c, rows = tile.rows - r;
            const auto* values = weight.row<kType>(tile.row + r) + tile.column + c;
            Vector v[kLanes] = {};
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; i++)
                if (i < rows) v[i] = load_first<kType>(values + i * weight.columns, left);
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; i++)
                if (i < left) store(panel + (c + i) * kPanelWidth + r, v[i]);
        }
}

template <FloatType kType>
void widen_transposed(const FloatMatrix& weight, const WeightTile& tile, float* panel) {
    for (int64_t r = 0; r < tile.rows; r++, panel += kPanelWidth) {
        const auto* values = weight.row<kType>(tile.row + r) + tile.column;
#pragma GCC unroll 4
        for (int64_t c = 0; c < kPanelWidth; c += kLanes)
            store(panel + c, load_first<kType>(values + c, tile.columns - c));
    }
}

void widen_float(const FloatMatrix& weight, const WeightTile& tile, float* panel) {
    with_type(weight.type, [&](auto type) { widen<type.value>(weight, tile, panel); });
}

void widen_float_transposed(const FloatMatrix& weight, const WeightTile& tile, float* panel) {
    with_type(weight.type, [&](auto type) { widen_transposed<type.value>(weight, tile, panel); });
}

void fill_widen(FloatKernels& floats) {
    floats.widen_quantized = widen_quantized;
    floats.widen_quantized_transposed = widen_quantized_transposed;
    floats.widen_float = widen_float;
    floats.widen_float_transposed = widen_float_transposed;
}

}  // namespace
}  // namespace paddle_glm
