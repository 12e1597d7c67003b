// The loops of `TrainingKernels`, for the compiler to vectorise: each training_ISA.cc includes this file once
// and defines PADDLE_GLM_TRAINING, the name of its table.
#include <cmath>
#include <cstring>

#include "training.h"

namespace paddle_glm {
namespace {

// exp(x) within 2 units in the last place, 0 below the smallest normal number, infinite above 88.3; without
// branches.
inline float exponential(float x) {
    constexpr float kLowest = -87.3f, kHighest = 88.3f, kRound = 12582912.0f;  // 1.5 * 2^23
    const float clamped = x < kLowest ? kLowest : (x > kHighest ? kHighest : x);
    const float shifted = clamped * 1.44269504f + kRound;
    const float n = shifted - kRound;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000u + 127u) << 23;  // the bits of 2^n
    float power;
    std::memcpy(&power, &bits, sizeof power);
    const float result = x > kHighest ? INFINITY : p * power;
    return x < kLowest ? 0.0f : result;
}

float rms_norm(const float* x, const float* weight, int64_t size, float epsilon, float* y) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < size; i++) squares += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(size) + epsilon);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * factor * weight[i];
    return factor;
}

void rms_norm_grad(const float* x, const float* weight, float factor, const float* dy, int64_t size,
                   float* dx, float* dweight) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < size; i++) dot += dy[i] * weight[i] * x[i];
    const float mean = dot * factor * factor / static_cast<float>(size);
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
        dx[i] = factor * (dy[i] * weight[i] - x[i] * mean);
        dweight[i] += dy[i] * x[i] * factor;
    }
}

void swiglu(const float* gate, const float* up, int64_t size, float* y) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) y[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

void swiglu_grad(const float* gate, const float* up, const float* dy, int64_t size, float* dgate,
                 float* dup) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
        const float sigmoid = 1.0f / (1.0f + exponential(-gate[i]));
        const float silu = gate[i] * sigmoid;
        dgate[i] = dy[i] * up[i] * (sigmoid + silu * (1.0f - sigmoid));
        dup[i] = dy[i] * silu;
    }
}

float largest(const float* x, int64_t size) {
    float maximum = x[0];
#pragma omp simd reduction(max : maximum)
    for (int64_t i = 0; i < size; i++) maximum = maximum < x[i] ? x[i] : maximum;
    return maximum;
}

void softmax(const float* x, const float* mask, int64_t size, float* y) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) y[i] = x[i] + mask[i];
    const float maximum = largest(y, size);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) {
        const float value = exponential(y[i] - maximum);
        y[i] = value;
        sum += value;
    }
    const float scale = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) y[i] *= scale;
}

void softmax_grad(const float* y, const float* dy, int64_t size, float* dx) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < size; i++) dot += y[i] * dy[i];
#pragma omp simd
    for (int64_t i = 0; i < size; i++) dx[i] = y[i] * (dy[i] - dot);
}

void rotate(const float* x, const float* cos, const float* sin, int64_t half, int64_t size, float scale,
            float* y) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float even = x[2 * i] * scale, odd = x[2 * i + 1] * scale;
        y[2 * i] = even * cos[i] - odd * sin[i];
        y[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
#pragma omp simd
    for (int64_t i = 2 * half; i < size; i++) y[i] = x[i] * scale;
}

void rotate_back(const float* x, const float* cos, const float* sin, int64_t half, int64_t size, float scale,
                 float* y) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float even = x[2 * i] * scale, odd = x[2 * i + 1] * scale;
        y[2 * i] = even * cos[i] + odd * sin[i];
        y[2 * i + 1] = odd * cos[i] - even * sin[i];
    }
#pragma omp simd
    for (int64_t i = 2 * half; i < size; i++) y[i] = x[i] * scale;
}

float sum_of_exponentials(const float* x, int64_t size, float* maximum) {
    const float shift = *maximum = largest(x, size);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) sum += exponential(x[i] - shift);
    return sum;
}

void scaled_exponentials(const float* x, int64_t size, float shift, float scale, float* y) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++) y[i] = exponential(x[i] - shift) * scale;
}

double sum_of_squares(const float* x, int64_t size) {
    double sum = 0;
    for (int64_t begin = 0; begin < size; begin += 1024) {
        const int64_t end = size < begin + 1024 ? size : begin + 1024;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = begin; i < end; i++) part += x[i] * x[i];
        sum += static_cast<double>(part);
    }
    return sum;
}

void adamw(const AdamW& step, const float* gradient, int64_t size, float* parameter, float* moment1,
           float* moment2) {
    const AdamW s = step;
#pragma omp simd
    for (int64_t i = 0; i < size; i++) {
        const float g = gradient[i] * s.gradient;
        const float first = s.beta1 * moment1[i] + (1.0f - s.beta1) * g;
        const float second = s.beta2 * moment2[i] + (1.0f - s.beta2) * g * g;
        moment1[i] = first;
        moment2[i] = second;
        parameter[i] = parameter[i] * s.decay - s.learning_rate * (first / (std::sqrt(second) + s.epsilon));
    }
}

}  // namespace

const TrainingKernels PADDLE_GLM_TRAINING = {
    rms_norm,       rms_norm_grad, swiglu,      swiglu_grad,         softmax,
    softmax_grad,   rotate,        rotate_back, sum_of_exponentials, scaled_exponentials,
    sum_of_squares, adamw};

}  // namespace paddle_glm
