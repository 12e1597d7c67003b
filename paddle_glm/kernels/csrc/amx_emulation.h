// AMX's tiles in plain C++, bit for bit, for tests on processors without them. A use that the processor would
// refuse ends the program.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace paddle_glm {
namespace {
namespace emulation {

struct Tile {
    int rows, row_bytes;
    uint8_t data[16][64];
};

// Of a thread; rows is 0 without a configuration.
thread_local Tile tiles[8];

inline void require(bool condition, const char* what) {
    if (condition) return;
    fprintf(stderr, "AMX emulation: %s\n", what);
    abort();
}

inline void load_config(const uint8_t* rows, const uint16_t* row_bytes) {
    for (int i = 0; i < 8; i++) {
        require(rows[i] <= 16 && row_bytes[i] <= 64, "a tile is larger than 16 rows of 64 bytes");
        require((rows[i] == 0) == (row_bytes[i] == 0), "a tile has rows without bytes");
        memset(&tiles[i], 0, sizeof tiles[i]);
        tiles[i].rows = rows[i];
        tiles[i].row_bytes = row_bytes[i];
    }
    for (int i = 8; i < 16; i++) require(rows[i] == 0 && row_bytes[i] == 0, "there are 8 tiles");
}

inline void release() { memset(tiles, 0, sizeof tiles); }

inline Tile& used(int tile) {
    require(tiles[tile].rows > 0, "a tile that is not configured");
    return tiles[tile];
}

inline void zero(int tile) { memset(used(tile).data, 0, sizeof tiles[tile].data); }

inline void load(int tile, const void* from, int64_t stride) {
    Tile& t = used(tile);
    memset(t.data, 0, sizeof t.data);
    for (int i = 0; i < t.rows; i++)
        memcpy(t.data[i], static_cast<const char*>(from) + i * stride, t.row_bytes);
}

inline void store(int tile, void* to, int64_t stride) {
    const Tile& t = used(tile);
    for (int i = 0; i < t.rows; i++) memcpy(static_cast<char*>(to) + i * stride, t.data[i], t.row_bytes);
}

inline void check_shapes(int c, int a, int b) {
    require(c != a && c != b && a != b, "a product of a tile with itself");
    require(used(a).rows == used(c).rows && used(b).row_bytes == used(c).row_bytes, "shapes of a product");
    require(used(a).row_bytes == 4 * used(b).rows, "inner sizes of a product");
}

inline void multiply_int8(int c, int a, int b) {
    check_shapes(c, a, b);
    for (int m = 0; m < tiles[c].rows; m++)
        for (int n = 0; n < tiles[c].row_bytes / 4; n++) {
            uint32_t sum;  // wraps around
            memcpy(&sum, &tiles[c].data[m][4 * n], 4);
            for (int k = 0; k < tiles[a].row_bytes; k++) {
                const int left = static_cast<int8_t>(tiles[a].data[m][k]);
                sum += static_cast<uint32_t>(left * tiles[b].data[k / 4][4 * n + k % 4]);
            }
            memcpy(&tiles[c].data[m][4 * n], &sum, 4);
        }
}

// Denormal numbers are zero, as inputs and as results.
inline float flushed(float value) { return fabsf(value) < 0x1p-126f ? copysignf(0.0f, value) : value; }

inline float bfloat16(const uint8_t* bytes) {
    uint16_t half;
    memcpy(&half, bytes, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return flushed(value);
}

// Even and odd inputs are summed apart, by fused multiplications and additions, and then added to C.
inline void multiply_bfloat16(int c, int a, int b) {
    check_shapes(c, a, b);
    for (int m = 0; m < tiles[c].rows; m++)
        for (int n = 0; n < tiles[c].row_bytes / 4; n++) {
            float parts[2] = {0, 0}, sum;
            for (int k = 0; k < tiles[a].row_bytes / 2; k++)
                parts[k % 2] =
                    flushed(fmaf(bfloat16(&tiles[a].data[m][2 * k]),
                                 bfloat16(&tiles[b].data[k / 2][4 * n + k % 2 * 2]), parts[k % 2]));
            memcpy(&sum, &tiles[c].data[m][4 * n], 4);
            sum = flushed(flushed(sum) + flushed(parts[0] + parts[1]));
            memcpy(&tiles[c].data[m][4 * n], &sum, 4);
        }
}

}  // namespace emulation
}  // namespace
}  // namespace paddle_glm
