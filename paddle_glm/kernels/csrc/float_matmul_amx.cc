// Products of bfloat16 panels by AMX.
//
// Tested by emulation only (amx_emulation.h), never timed.
#include "amx_tiles.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int64_t kDepth = 32;  // inputs of a tile

// Tiles 0-3: sums of 4 x 16 columns; 4: x; 5: pairs.
void configure(int64_t rows, int64_t depth) {
    TileConfig config;
    for (int tile = 0; tile < 4; tile++) config.set(tile, rows, kTileRowBytes);
    config.set(4, rows, 2 * depth);
    config.set(5, depth / 2, kTileRowBytes);
    load_config(config);
}

template <int T>
inline void begin_sum(const float* y, int64_t y_stride, bool add) {
    if (add)
        load_tile<T>(y + 16 * T, y_stride * static_cast<int64_t>(sizeof(float)));
    else
        zero_tile<T>();
}

template <int T>
inline void add_products(const uint32_t* pairs) {
    load_tile<5>(pairs + 16 * T, kPanelWidth * static_cast<int64_t>(sizeof(uint32_t)));
    multiply_bfloat16<T, 4, 5>();
}

template <int T>
inline void end_sum(float* y, int64_t y_stride) {
    store_tile<T>(y + 16 * T, y_stride * static_cast<int64_t>(sizeof(float)));
}

// Up to 16 rows as configured, `steps` tiles deep.
void multiply_rows(const uint16_t* x, int64_t x_stride, const uint32_t* pairs, int64_t steps, float* y,
                   int64_t y_stride, bool add) {
    begin_sum<0>(y, y_stride, add);
    begin_sum<1>(y, y_stride, add);
    begin_sum<2>(y, y_stride, add);
    begin_sum<3>(y, y_stride, add);
    for (int64_t i = 0; i < steps; i++, x += kDepth, pairs += kDepth / 2 * kPanelWidth) {
        load_tile<4>(x, x_stride * static_cast<int64_t>(sizeof(uint16_t)));
        add_products<0>(pairs);
        add_products<1>(pairs);
        add_products<2>(pairs);
        add_products<3>(pairs);
    }
    end_sum<0>(y, y_stride);
    end_sum<1>(y, y_stride);
    end_sum<2>(y, y_stride);
    end_sum<3>(y, y_stride);
}

void multiply_panel(const uint16_t* x, int64_t x_stride, int64_t rows, const uint32_t* pairs, int64_t depth,
                    float* y, int64_t y_stride, bool add) {
    const int64_t steps = depth / kDepth, rest = depth % kDepth;
    for (int64_t m = 0; m < rows; m += kTileRows) {
        const int64_t count = rows - m < kTileRows ? rows - m : kTileRows;
        const uint16_t* in = x + m * x_stride;
        float* out = y + m * y_stride;
        if (steps > 0) {
            configure(count, kDepth);
            multiply_rows(in, x_stride, pairs, steps, out, y_stride, add);
        }
        if (rest > 0) {
            configure(count, rest);
            multiply_rows(in + steps * kDepth, x_stride, pairs + steps * kDepth / 2 * kPanelWidth, 1, out,
                          y_stride, add || steps > 0);
        }
    }
    release_tiles();
}

}  // namespace

void fill_float_amx(KernelTable& table) { table.floats.multiply_panel_bfloat16 = multiply_panel; }

}  // namespace paddle_glm
