#include "layout.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"

namespace paddle_glm {
namespace {

int line_inputs(int bits) { return bits == 4 ? 8 : 4; }

// Nibble of input i in a row of the hub's order, without sign.
inline uint8_t hub_nibble(const uint8_t* row, int64_t i) {
    const uint8_t byte = row[i / 2] ^ 0x88;
    return i % 2 ? byte & 15 : byte >> 4;
}

// The 4 bytes of a row in a line, as a little-endian word: hub order -> kernel order.
inline uint32_t pack_word(uint32_t hub, int bits) {
    if (bits == 8) return hub ^ 0x80808080u;
    const uint32_t even = (hub >> 4 & 0x0F0F0F0Fu) ^ 0x08080808u, odd = (hub & 0x0F0F0F0Fu) ^ 0x08080808u;
    // Bytes 0 and 1 of `low`: inputs 0 and 2 with 4 and 6 in the high half; of `high`: 1, 3, 5 and 7.
    const uint32_t low = even | even >> 12, high = odd | odd >> 12;
    return (low & 0xFF) | (high & 0xFF) << 8 | (low & 0xFF00) << 8 | (high & 0xFF00) << 16;
}

inline uint32_t unpack_word(uint32_t packed, int bits) {
    if (bits == 8) return packed ^ 0x80808080u;
    const uint32_t low = (packed & 0xFF) | (packed >> 8 & 0xFF00);
    const uint32_t high = (packed >> 8 & 0xFF) | (packed >> 16 & 0xFF00);
    const uint32_t even = (low & 0x0F0Fu) | (low & 0xF0F0u) << 12;
    const uint32_t odd = (high & 0x0F0Fu) | (high & 0xF0F0u) << 12;
    return (even << 4 | odd) ^ 0x88888888u;
}

// Lines per tile: a tile of 32 rows stays in the first-level cache while it is transposed.
constexpr int64_t kTile = 16;

// in: [32][lines] words; out: [lines][32].
void pack_block(const uint8_t* hub, uint8_t* packed, int64_t row_bytes, int bits) {
    const int64_t lines = row_bytes / 4;
    for (int64_t start = 0; start < lines; start += kTile) {
        const int64_t count = lines - start < kTile ? lines - start : kTile;
        uint32_t tile[kTile][kBlockRows];
        for (int64_t r = 0; r < kBlockRows; r++) {
            uint32_t row[kTile];
            std::memcpy(row, hub + r * row_bytes + 4 * start, 4 * count);
            for (int64_t j = 0; j < count; j++) tile[j][r] = pack_word(row[j], bits);
        }
        std::memcpy(packed + start * kBlockRows * 4, tile, count * sizeof(tile[0]));
    }
}

// The inverse of `pack_block`.
void unpack_block(const uint8_t* packed, uint8_t* hub, int64_t row_bytes, int bits) {
    const int64_t lines = row_bytes / 4;
    for (int64_t start = 0; start < lines; start += kTile) {
        const int64_t count = lines - start < kTile ? lines - start : kTile;
        uint32_t tile[kTile][kBlockRows];
        std::memcpy(tile, packed + start * kBlockRows * 4, count * sizeof(tile[0]));
        for (int64_t r = 0; r < kBlockRows; r++) {
            uint32_t row[kTile];
            for (int64_t j = 0; j < count; j++) row[j] = unpack_word(tile[j][r], bits);
            std::memcpy(hub + r * row_bytes + 4 * start, row, 4 * count);
        }
    }
}

void transpose(const float* in, float* out, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) out[c * rows + r] = in[r * columns + c];
}

// Stored values [count] of a row from `column` on.
void stored_part(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t count, uint8_t* out) {
    const int64_t block = row / kBlockRows, r = row % kBlockRows;
    const uint8_t* values = weight.block_values(block);
    const int n = line_inputs(weight.bits);
    if (block >= weight.blocks()) {
        values += r * weight.row_bytes();
        for (int64_t i = column; i < column + count; i++)
            *out++ = weight.bits == 8 ? values[i] ^ 0x80 : hub_nibble(values, i);
        return;
    }
    for (int64_t i = column; i < column + count; i++) {
        const int64_t t = i % n;
        const uint8_t byte = values[((i / n) * kBlockRows + r) * 4 + t % 4];
        *out++ = weight.bits == 8 ? byte : (t < 4 ? byte & 15 : byte >> 4);
    }
}

enum class Direction { kPack, kUnpack };

void permute(uint8_t* values, float* scales, int64_t rows, int64_t columns, int64_t group_size, int bits,
             Direction direction) {
    const int64_t row_bytes = columns * bits / 8, groups = columns / group_size;
    const int64_t value_bytes = kBlockRows * row_bytes, scale_count = kBlockRows * groups;
    parallel_for(rows / kBlockRows, 1, [&](int64_t begin, int64_t end) {
        std::unique_ptr<uint8_t[]> old_values(new uint8_t[value_bytes]);
        std::unique_ptr<float[]> old_scales(new float[scale_count]);
        for (int64_t block = begin; block < end; block++) {
            uint8_t* v = values + block * value_bytes;
            float* s = scales + block * scale_count;
            std::memcpy(old_values.get(), v, value_bytes);
            std::memcpy(old_scales.get(), s, scale_count * sizeof(float));
            if (direction == Direction::kPack) {
                pack_block(old_values.get(), v, row_bytes, bits);
                transpose(old_scales.get(), s, kBlockRows, groups);
            } else {
                unpack_block(old_values.get(), v, row_bytes, bits);
                transpose(old_scales.get(), s, groups, kBlockRows);
            }
        }
    });
}

}  // namespace

bool has_kernel_order(int64_t columns, int64_t group_size, int bits) {
    return columns > 0 && group_size > 0 && columns % group_size == 0 && group_size % line_inputs(bits) == 0;
}

void pack(uint8_t* values, float* scales, int64_t rows, int64_t columns, int64_t group_size, int bits) {
    permute(values, scales, rows, columns, group_size, bits, Direction::kPack);
}

void unpack(uint8_t* values, float* scales, int64_t rows, int64_t columns, int64_t group_size, int bits) {
    permute(values, scales, rows, columns, group_size, bits, Direction::kUnpack);
}

void stored_row(const QuantizedMatrix& weight, int64_t row, uint8_t* out) {
    stored_part(weight, row, 0, weight.columns, out);
}

void dequantize(const QuantizedMatrix& weight, int64_t row, int64_t column, int64_t count, float* out) {
    const int64_t block = row / kBlockRows, r = row % kBlockRows, groups = weight.groups();
    const float* scales = weight.block_scales(block);
    const bool packed = block < weight.blocks();
    uint8_t stored[256];
    while (count > 0) {
        const int64_t g = column / weight.group_size;
        const int64_t part = std::min({count, (g + 1) * weight.group_size - column, int64_t{sizeof stored}});
        stored_part(weight, row, column, part, stored);
        const float scale = packed ? scales[g * kBlockRows + r] : scales[r * groups + g];
        for (int64_t i = 0; i < part; i++) *out++ = static_cast<float>(stored[i] - weight.offset()) * scale;
        column += part;
        count -= part;
    }
}

}  // namespace paddle_glm
