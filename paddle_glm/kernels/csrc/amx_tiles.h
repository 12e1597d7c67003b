// The eight tiles of a thread. PADDLE_GLM_EMULATE_AMX, of test builds: by plain C++, with the same bits.
#pragma once

#include <stdint.h>

#ifdef PADDLE_GLM_EMULATE_AMX
#include "amx_emulation.h"
#endif

namespace paddle_glm {
namespace {

constexpr int kTileCount = 8;
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileRowBytes = 64;
constexpr int64_t kTileBytes = kTileRows * kTileRowBytes;

// Rows and bytes per row of each tile, as the instruction reads them.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t tile_rows, int64_t bytes) {
        rows[tile] = static_cast<uint8_t>(tile_rows);
        row_bytes[tile] = static_cast<uint16_t>(bytes);
    }
};
static_assert(sizeof(TileConfig) == 64, "the instruction reads 64 bytes");

// Instructions as assembler: GCC's intrinsics do not say that they read memory.
#ifdef PADDLE_GLM_EMULATE_AMX
inline void load_config(const TileConfig& config) { emulation::load_config(config.rows, config.row_bytes); }
inline void release_tiles() { emulation::release(); }
template <int T>
inline void zero_tile() {
    emulation::zero(T);
}
template <int T>
inline void load_tile(const void* from, int64_t stride) {
    emulation::load(T, from, stride);
}
template <int T>
inline void store_tile(void* to, int64_t stride) {
    emulation::store(T, to, stride);
}
// C += A B for A int8 [rows, k], B uint8 in lines of 4 k: [k / 4, columns, 4]; C int32.
template <int C, int A, int B>
inline void multiply_int8() {
    emulation::multiply_int8(C, A, B);
}
// C += A B for A bfloat16 [rows, k], B bfloat16 [k / 2, columns, 2]; C float32.
template <int C, int A, int B>
inline void multiply_bfloat16() {
    emulation::multiply_bfloat16(C, A, B);
}
#else
inline void load_config(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
inline void release_tiles() { __asm__ volatile("tilerelease"); }
template <int T>
inline void zero_tile() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
inline void load_tile(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(T), "r"(from), "r"(stride) : "memory");
}
template <int T>
inline void store_tile(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(T), "r"(to), "r"(stride) : "memory");
}
template <int C, int A, int B>
inline void multiply_int8() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
inline void multiply_bfloat16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
#endif

}  // namespace
}  // namespace paddle_glm
