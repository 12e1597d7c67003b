// Half precision numbers to float32 with AVX-512. For files of that instruction set only.
#pragma once

#include <immintrin.h>

#include "half.h"

namespace paddle_glm {
namespace {

// 16 numbers; those that the mask leaves out are zero and not read.
template <HalfType kType>
inline __m512 load_half(const uint16_t* values, __mmask16 mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, values);
    if (kType == HalfType::kFloat16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

}  // namespace
}  // namespace paddle_glm
