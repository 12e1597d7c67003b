#include <cmath>
#include <cstring>

#include "kernels.h"

namespace paddle_glm {
namespace {

void rms_norm(const float* x, const float* residual, const float* weight, int64_t size, float epsilon,
              float* sum, float* y) {
    float squares = 0;
    for (int64_t i = 0; i < size; i++) {
        const float value = residual == nullptr ? x[i] : x[i] + residual[i];
        if (residual != nullptr) sum[i] = value;
        squares += value * value;
    }
    const float* in = residual == nullptr ? x : sum;
    const float factor = 1 / std::sqrt(squares / size + epsilon);
    for (int64_t i = 0; i < size; i++) y[i] = in[i] * factor * weight[i];
}

void swiglu(const float* gate, const float* up, int64_t size, float* y) {
    for (int64_t i = 0; i < size; i++) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void rotate(const float* x, const float* cos, const float* sin, int64_t half, int64_t size, float* y) {
    for (int64_t i = 0; i < half; i++) {
        const float even = x[2 * i], odd = x[2 * i + 1];
        y[2 * i] = even * cos[i] - odd * sin[i];
        y[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
    std::memcpy(y + 2 * half, x + 2 * half, (size - 2 * half) * sizeof(float));
}

}  // namespace

void fill_fused_portable(KernelTable& table) {
    table.rms_norm = rms_norm;
    table.swiglu = swiglu;
    table.rotate = rotate;
}

}  // namespace paddle_glm
