// Weights to float32 panels.
#include "decode_avx512.h"
#include "half_avx512.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// 16 vectors of 16 numbers as a matrix, transposed.
inline void transpose(__m512 (&v)[16]) {
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        v[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        v[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        v[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
        v[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
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

void clear(float* panel, int64_t depth, int64_t begin, int64_t end) {
    for (int64_t k = 0; k < depth; k++)
        for (int64_t i = begin; i < end; i++) panel[k * kPanelWidth + i] = 0;
}

// The scales of 16 rows of a block, along columns that only grow.
struct Scales {
    const float* next;
    int64_t group_size, group_end;
    __m512 value;

    Scales(const float* scales, int64_t size, int64_t column) : group_size(size) {
        const int64_t group = column / size;
        next = scales + (group + 1) * kBlockRows;
        group_end = (group + 1) * size;
        value = _mm512_loadu_ps(scales + group * kBlockRows);
    }

    __m512 at(int64_t column) {
        if (column == group_end) {
            value = _mm512_loadu_ps(next);
            next += kBlockRows;
            group_end += group_size;
        }
        return value;
    }
};

// panel[c][0..15] for 16 rows of a block, the lower or the upper half of it.
template <int kBits>
void widen_half_block(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t columns,
                      float* panel) {
    constexpr int kInputs = Line<kBits>::kInputs;
    const int64_t block = row / kBlockRows, half = row % kBlockRows / 16;
    const uint8_t* values = weight.block_values(block) + (column / kInputs * 2 + half) * kLineBytes;
    Scales scales(weight.block_scales(block) + 16 * half, weight.group_size, column);
    for (int64_t c = 0; c < columns; c += kInputs, values += 2 * kLineBytes) {
        const __m512 scale = scales.at(column + c);
        const Line<kBits> line(values);
#pragma GCC unroll 8
        for (int t = 0; t < kInputs; t++)
            _mm512_storeu_ps(panel + (c + t) * kPanelWidth, _mm512_mul_ps(line.input(t), scale));
    }
}

// panel[0..15][c] for the same.
template <int kBits>
void widen_half_block_transposed(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t columns,
                                 float* panel) {
    constexpr int kInputs = Line<kBits>::kInputs, kLines = 16 / kInputs;
    const int64_t block = row / kBlockRows, half = row % kBlockRows / 16;
    const uint8_t* values = weight.block_values(block) + (column / kInputs * 2 + half) * kLineBytes;
    Scales scales(weight.block_scales(block) + 16 * half, weight.group_size, column);
    for (int64_t c = 0; c < columns; c += 16) {
        __m512 v[16];
#pragma GCC unroll 4
        for (int i = 0; i < kLines; i++, values += 2 * kLineBytes) {
            if (c + i * kInputs < columns) {
                const __m512 scale = scales.at(column + c + i * kInputs);
                const Line<kBits> line(values);
#pragma GCC unroll 8
                for (int t = 0; t < kInputs; t++) v[i * kInputs + t] = _mm512_mul_ps(line.input(t), scale);
            } else {
#pragma GCC unroll 8
                for (int t = 0; t < kInputs; t++) v[i * kInputs + t] = _mm512_setzero_ps();
            }
        }
        transpose(v);
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) _mm512_storeu_ps(panel + r * kPanelWidth + c, v[r]);
    }
}

void widen_quantized(const QuantizedMatrix& weight, const WeightTile& tile, float* panel) {
    const int64_t packed = weight.blocks() * kBlockRows - tile.row;
    const int64_t whole = packed < tile.rows ? (packed < 0 ? 0 : packed) : tile.rows;
    for (int64_t r = 0; r < whole; r += 16)
        (weight.bits == 4 ? widen_half_block<4> : widen_half_block<8>)(weight, tile.row + r, tile.column,
                                                                       tile.columns, panel + r);
    if (whole < kPanelWidth) clear(panel, tile.columns, tile.rows, kPanelWidth);
    widen_tail(weight, tile.row + whole, tile.rows - whole, tile.column, tile.columns, panel + whole, 1,
               kPanelWidth);
}

void widen_quantized_transposed(const QuantizedMatrix& weight, const WeightTile& tile, float* panel) {
    const int64_t packed = weight.blocks() * kBlockRows - tile.row;
    const int64_t whole = packed < tile.rows ? (packed < 0 ? 0 : packed) : tile.rows;
    if (tile.columns < kPanelWidth) clear(panel, tile.rows, 0, kPanelWidth);
    for (int64_t r = 0; r < whole; r += 16)
        (weight.bits == 4 ? widen_half_block_transposed<4>
                          : widen_half_block_transposed<8>)(weight, tile.row + r, tile.column, tile.columns,
                                                            panel + r * kPanelWidth);
    widen_tail(weight, tile.row + whole, tile.rows - whole, tile.column, tile.columns,
               panel + whole * kPanelWidth, kPanelWidth, 1);
}

__mmask16 first(int64_t count) { return count >= 16 ? 0xFFFF : (1 << count) - 1; }

template <HalfType kType>
void widen(const HalfMatrix& weight, const WeightTile& tile, float* panel) {
    for (int64_t r = 0; r < kPanelWidth; r += 16)
        for (int64_t c = 0; c < tile.columns; c += 16) {
            const int64_t left = tile.columns - c, rows = tile.rows - r;
            const uint16_t* values = weight.row(tile.row + r) + tile.column + c;
            __m512 v[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                v[i] = i < rows ? load_half<kType>(values + i * weight.columns, first(left))
                                : _mm512_setzero_ps();
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                if (i < left) _mm512_storeu_ps(panel + (c + i) * kPanelWidth + r, v[i]);
        }
}

template <HalfType kType>
void widen_transposed(const HalfMatrix& weight, const WeightTile& tile, float* panel) {
    for (int64_t r = 0; r < tile.rows; r++, panel += kPanelWidth) {
        const uint16_t* values = weight.row(tile.row + r) + tile.column;
#pragma GCC unroll 4
        for (int64_t c = 0; c < kPanelWidth; c += 16) {
            const int64_t left = tile.columns - c;
            _mm512_storeu_ps(panel + c, load_half<kType>(values + c, left > 0 ? first(left) : 0));
        }
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

void fill_widen_avx512(KernelTable& table) {
    table.floats.widen_quantized = widen_quantized;
    table.floats.widen_quantized_transposed = widen_quantized_transposed;
    table.floats.widen_half = widen_half;
    table.floats.widen_half_transposed = widen_half_transposed;
}

}  // namespace paddle_glm
