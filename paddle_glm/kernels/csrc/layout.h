// Kernel order: where a quantised weight keeps its bytes so that vector instructions read them in sequence.
//
// A permutation in place: shapes and sizes are those of the hub's format
// (paddle_glm/quantization/packing.py). Rows are taken in blocks of 32; rows behind the last whole block stay
// in the hub's order.
//   values of a block: [inputs / n][2][16][4] bytes with n = 8 inputs for 4 bits and 4 for 8 bits: 64-byte
//     lines, two for rows 0-15 and 16-31; the 4 bytes of row r hold inputs n*j + t, t = 0..3, in their low
//     half and, for 4 bits, n*j + 4 + t in their high half. Stored without sign: value + 8, or + 128.
//   scales of a block: [groups][32] instead of [32][groups]; one scale per output needs no permutation.
#pragma once

#include <cstdint>

namespace paddle_glm {

// Raised whenever kernel order or an operator changes, for exported graphs, which name the version they need.
constexpr int kOperatorsVersion = 2;

constexpr int64_t kBlockRows = 32;
constexpr int64_t kLineBytes = 64;

// A quantised weight in kernel order; `group_size` inputs share a scale, `columns` of them for one per
// output.
struct QuantizedMatrix {
    const uint8_t* values;
    const float* scales;
    int64_t rows, columns, group_size;
    int bits;

    int64_t groups() const { return columns / group_size; }
    int64_t row_bytes() const { return columns * bits / 8; }
    int32_t offset() const { return bits == 4 ? 8 : 128; }  // of stored values
    int64_t blocks() const { return rows / kBlockRows; }
    const uint8_t* block_values(int64_t block) const { return values + block * kBlockRows * row_bytes(); }
    const float* block_scales(int64_t block) const { return scales + block * kBlockRows * groups(); }
};

// Whether a weight of this shape has a kernel order: groups of whole lines.
bool has_kernel_order(int64_t columns, int64_t group_size, int bits);

// Hub order -> kernel order in place, and back. values: int8 [rows, columns * bits / 8]; scales: float32
// [rows, columns / group_size].
void pack(uint8_t* values, float* scales, int64_t rows, int64_t columns, int64_t group_size, int bits);
void unpack(uint8_t* values, float* scales, int64_t rows, int64_t columns, int64_t group_size, int bits);

// One row of the weight as it is stored, without sign: value + offset [columns].
void stored_row(const QuantizedMatrix& weight, int64_t row, uint8_t* out);

// A part of a row of the float weight: float32 [count] from `column` on.
void dequantize(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t count, float* out);

}  // namespace paddle_glm
