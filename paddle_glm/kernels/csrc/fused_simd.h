// Norm, activation and rotary embedding with vectors of N floats; see KernelTable.
#pragma once

#include <math.h>

#include "kernels.h"
#include "simd.h"

namespace paddle_glm {
namespace {

template <int N>
void rms_norm(const float* x, const float* residual, const float* weight, int64_t size, float epsilon,
              float* added, float* y) {
    using V = Simd<N>;
    const int64_t whole = size - size % N;
    typename V::Float squares{};
    float total = 0;
    if (residual != nullptr) {
        for (int64_t i = 0; i < size; i++) added[i] = x[i] + residual[i];
        x = added;
    }
    for (int64_t i = 0; i < whole; i += N) squares += V::load(x + i) * V::load(x + i);
    for (int64_t i = whole; i < size; i++) total += x[i] * x[i];
    const float factor = 1 / sqrtf((total + sum<N>(squares)) / size + epsilon);
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * factor * weight[i];
}

template <int N>
void swiglu(const float* gate, const float* up, int64_t size, float* y) {
    using V = Simd<N>;
    const int64_t whole = size - size % N;
    for (int64_t i = 0; i < whole; i += N) {
        const typename V::Float g = V::load(gate + i);
        V::store(y + i, g / (V::exp(-g) + 1.0f) * V::load(up + i));
    }
    if (whole == size) return;
    float last[3][N] = {};
    for (int64_t i = whole; i < size; i++) last[0][i - whole] = gate[i], last[1][i - whole] = up[i];
    swiglu<N>(last[0], last[1], N, last[2]);
    for (int64_t i = whole; i < size; i++) y[i] = last[2][i - whole];
}

template <int N>
void rotate(const float* x, const float* cos, const float* sin, int64_t half, int64_t size, float* y) {
    for (int64_t i = 0; i < half; i++) {
        const float even = x[2 * i], odd = x[2 * i + 1];
        y[2 * i] = even * cos[i] - odd * sin[i];
        y[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
    for (int64_t i = 2 * half; i < size; i++) y[i] = x[i];
}

template <int N>
void fill_elementwise(KernelTable& table) {
    table.rms_norm = rms_norm<N>;
    table.swiglu = swiglu<N>;
    table.rotate = rotate<N>;
}

}  // namespace
}  // namespace paddle_glm
