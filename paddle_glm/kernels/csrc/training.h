// Forward and backward of what lies between the products of a training step, in float32.
//
// `TrainingKernels` are loops over one row (or a range of elements), compiled once per instruction set from
// training_rows.h. The functions below run them over rows in parallel. Results do not depend on the number of
// threads: sums over rows are taken in fixed ranges, one after the other.
#pragma once

#include <cstdint>

namespace paddle_glm {

struct AdamW {
    float learning_rate;  // with the corrections of both biases
    float beta1, beta2;
    float epsilon;   // times the correction of the second moment
    float decay;     // 1 - learning rate * weight decay
    float gradient;  // factor of the gradient
};

struct TrainingKernels {
    // y = x * factor * weight; returns factor = 1 / sqrt(mean(x^2) + epsilon).
    float (*rms_norm)(const float* x, const float* weight, int64_t size, float epsilon, float* y);
    // Adds this row's part to dweight.
    void (*rms_norm_grad)(const float* x, const float* weight, float factor, const float* dy, int64_t size,
                          float* dx, float* dweight);
    // y = silu(gate) * up.
    void (*swiglu)(const float* gate, const float* up, int64_t size, float* y);
    void (*swiglu_grad)(const float* gate, const float* up, const float* dy, int64_t size, float* dgate,
                        float* dup);
    // y = softmax(x + mask).
    void (*softmax)(const float* x, const float* mask, int64_t size, float* y);
    void (*softmax_grad)(const float* y, const float* dy, int64_t size, float* dx);
    // Rotates adjacent pairs by cos, sin [half] and scales: y[i] of `size`, the rest behind 2 * half scaled.
    void (*rotate)(const float* x, const float* cos, const float* sin, int64_t half, int64_t size,
                   float scale, float* y);
    // The transposed rotation.
    void (*rotate_back)(const float* x, const float* cos, const float* sin, int64_t half, int64_t size,
                        float scale, float* y);
    // maximum, and the sum of exp(x - maximum).
    float (*sum_of_exponentials)(const float* x, int64_t size, float* maximum);
    // y = exp(x - shift) * scale.
    void (*scaled_exponentials)(const float* x, int64_t size, float shift, float scale, float* y);
    double (*sum_of_squares)(const float* x, int64_t size);
    void (*adamw)(const AdamW& step, const float* gradient, int64_t size, float* parameter, float* moment1,
                  float* moment2);
};

// The table of `isa()`.
const TrainingKernels& training_kernels();

extern const TrainingKernels kTrainingPortable;
#if defined(__x86_64__)
extern const TrainingKernels kTrainingAvx2, kTrainingAvx512;
#endif

// x, y: [rows, size]; factor: [rows].
void rms_norm_training(const float* x, const float* weight, int64_t rows, int64_t size, float epsilon,
                       float* y, float* factor);
void rms_norm_training_grad(const float* x, const float* weight, const float* factor, const float* dy,
                            int64_t rows, int64_t size, float* dx, float* dweight);

// x: [rows, 2 * size], gate and up; y: [rows, size].
void swiglu_training(const float* x, int64_t rows, int64_t size, float* y);
void swiglu_training_grad(const float* x, const float* dy, int64_t rows, int64_t size, float* dx);

// Rows of queries, keys and values in one projection.
struct Projection {
    int64_t batch, tokens, heads, kv_heads, head_dim, half;
    float scale;  // of the queries

    int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// qkv: [batch, tokens, width] -> query [batch, heads, tokens, head_dim], scaled and rotated; key, rotated,
// and value: [batch, kv_heads, tokens, head_dim]. cos, sin: [batch, tokens, half].
void split_rotary(const Projection& sizes, const float* qkv, const float* cos, const float* sin, float* query,
                  float* key, float* value);
void split_rotary_grad(const Projection& sizes, const float* dquery, const float* dkey, const float* dvalue,
                       const float* cos, const float* sin, float* dqkv);

// softmax(scores + mask) of rows; scores: [batch, heads, tokens, total]; mask: [batch or 1, tokens, total].
void masked_softmax(const float* scores, const float* mask, int64_t batch, int64_t heads, int64_t tokens,
                    int64_t total, bool mask_per_row, float* y);
void masked_softmax_grad(const float* y, const float* dy, int64_t rows, int64_t size, float* dx);

// Of each row of logits [rows, size], a shard of the vocabulary that starts at id `first`: its maximum, the
// sum of exp(logit - maximum), and the label's logit, 0 if the label is in another shard.
void softmax_statistics(const float* logits, const int64_t* labels, int64_t rows, int64_t size, int64_t first,
                        float* maximum, float* sum, float* target);
// dlogits = (exp(logits - logsumexp) - [label]) * scale; logsumexp, scale: [rows].
void cross_entropy_grad(const float* logits, const int64_t* labels, const float* logsumexp,
                        const float* scale, int64_t rows, int64_t size, int64_t first, float* dlogits);

double squared_norm(const float* x, int64_t size);
void adamw_step(const AdamW& step, const float* gradient, int64_t size, float* parameter, float* moment1,
                float* moment2);

}  // namespace paddle_glm
