// bfloat16 arithmetic: rounding, and products of panels.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"
#include "multiply_panel_avx512.h"

namespace paddle_glm {
namespace {

void round_bfloat16(const float* x, int64_t count, uint16_t* rounded) {
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = count - i < 16 ? (1 << (count - i)) - 1 : 0xFFFF;
        const __m256bh half = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
        _mm256_mask_storeu_epi16(rounded + i, mask, (__m256i)half);
    }
}

// Word 2i of the result is word i of the lower half, word 2i + 1 of the upper half.
__m512i interleave_halves() {
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 32; i++) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * 16);
    return _mm512_load_si512(order);
}

void pair_panel(const float* panel, int64_t depth, uint32_t* pairs) {
    const __m512i order = interleave_halves();
    for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanelWidth, pairs += kPanelWidth)
#pragma GCC unroll 4
        for (int64_t c = 0; c < kPanelWidth; c += 16) {
            const __m512bh both =
                _mm512_cvtne2ps_pbh(_mm512_load_ps(panel + kPanelWidth + c), _mm512_load_ps(panel + c));
            _mm512_store_si512(pairs + c, _mm512_permutexvar_epi16(order, (__m512i)both));
        }
}

struct BFloat16Product {
    using Number = uint16_t;
    using Element = uint32_t;
    using Vector = __m512bh;
    static constexpr int kNumbers = 2;

    static Vector load(const uint32_t* pairs) { return (__m512bh)_mm512_load_si512(pairs); }
    static Vector broadcast(const uint16_t* x) {
        int pair;
        std::memcpy(&pair, x, sizeof pair);
        return (__m512bh)_mm512_set1_epi32(pair);
    }
    static __m512 multiply_add(Vector x, Vector w, __m512 sum) { return _mm512_dpbf16_ps(sum, w, x); }
};

}  // namespace

void fill_float_avx512_bf16(KernelTable& table) {
    table.floats.round_bfloat16 = round_bfloat16;
    table.floats.pair_panel = pair_panel;
    table.floats.multiply_panel_bfloat16 = multiply_panel<BFloat16Product>;
}

}  // namespace paddle_glm
