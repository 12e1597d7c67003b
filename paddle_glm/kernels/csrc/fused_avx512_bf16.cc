#include <immintrin.h>

#include "attention_simd.h"

namespace paddle_glm {
namespace {

// Elements are pairs of bfloat16: neighbours in a row, or from two steps of values.
struct BFloat16Product {
    using V = Simd<16>;
    using Float = V::Float;
    static constexpr int kTileVectors = 4;
    static constexpr int kChannels = 2;

    static Float multiply_add(float a, Float b, Float sum) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_ps(a)),
                                reinterpret_cast<__m512bh>(b));
    }

    // 32 numbers -> 16 elements.
    static Float pairs(__m512 low, __m512 high) {
        return reinterpret_cast<Float>(_mm512_cvtne2ps_pbh(high, low));
    }

    static void convert(const float* from, int64_t size, float* to) {
        int64_t i = 0;
        for (; i + 32 <= size; i += 32)
            V::store(to + i / 2, pairs(V::load(from + i), V::load(from + i + 16)));
        if (i < size)
            V::store(to + i / 2,
                     pairs(load_part(from + i, size - i), load_part(from + i + 16, size - i - 16)));
    }
    static __m512 load_part(const float* from, int64_t count) {
        return _mm512_maskz_loadu_ps(count <= 0 ? 0 : count >= 16 ? 0xffff : (1u << count) - 1, from);
    }

    static Panel row_panel(const float* from, int64_t rows, int64_t size, int64_t stride, float* to) {
        alignas(64) uint16_t order[32];
        for (uint16_t i = 0; i < 32; i++) order[i] = i / 2 + i % 2 * 16;
        const __m512i interleave = _mm512_load_si512(order);
        for (int64_t r = 0; r < rows; r += 2)
            for (int64_t i = 0; i < size; i += 16) {
                const __m512 even = load_part(from + r * size + i, size - i);
                const __m512 odd =
                    r + 1 < rows ? load_part(from + (r + 1) * size + i, size - i) : _mm512_setzero_ps();
                const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
                _mm512_storeu_si512(to + r / 2 * stride + i, _mm512_permutexvar_epi16(interleave, halves));
            }
        return {to, stride};
    }
};

}  // namespace

void fill_fused_avx512_bf16(KernelTable& table) { table.attend_bfloat16 = attend<BFloat16Product>; }

}  // namespace paddle_glm
