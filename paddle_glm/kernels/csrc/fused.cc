#include "fused.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "scratch.h"

namespace paddle_glm {

void rms_norm(const float* x, const float* residual, const float* weight, int64_t rows, int64_t size,
              float epsilon, float* sum, float* y) {
    const KernelTable& table = kernels();
    parallel_for(rows, 8, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t at = row * size;
            table.rms_norm(x + at, residual == nullptr ? nullptr : residual + at, weight, size, epsilon,
                           residual == nullptr ? nullptr : sum + at, y + at);
        }
    });
}

const float* widen(const uint16_t* weight, FloatType type, int64_t size) {
    // As a matrix of kPanelWidth columns, and its last row.
    constexpr int64_t kStep = kPanelWidth * kPanelDepth;
    const int64_t bytes = (size + kPanelWidth) * sizeof(float);
    float* out = reinterpret_cast<float*>(scratch(Scratch::kActivations, bytes));
    const auto convert = kernels().floats.widen_float_transposed;
    const int64_t whole = size - size % kPanelWidth;
    for (int64_t i = 0; i < whole; i += kStep) {
        const int64_t rows = std::min(kStep, whole - i) / kPanelWidth;
        convert({weight + i, rows, kPanelWidth, type}, {0, 0, rows, kPanelWidth}, out + i);
    }
    const int64_t rest = size - whole;
    if (rest > 0) convert({weight + whole, 1, rest, type}, {0, 0, 1, rest}, out + whole);
    return out;
}

namespace {

void add_strided(const float* x, int64_t stride, int64_t rows, int64_t size, float* y) {
    parallel_for(rows, 8, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++)
            for (int64_t i = 0; i < size; i++) y[row * size + i] += x[row * stride + i];
    });
}

}  // namespace

void add_vector(const float* vector, int64_t rows, int64_t size, float* y) {
    add_strided(vector, 0, rows, size, y);
}

void add_rows(const float* x, int64_t rows, int64_t size, float* y) { add_strided(x, size, rows, size, y); }

void swiglu(const float* x, int64_t rows, int64_t size, float* y) {
    const KernelTable& table = kernels();
    constexpr int64_t kStep = 2048;  // elements
    const int64_t steps = (size + kStep - 1) / kStep;
    parallel_for(rows * steps, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const int64_t row = i / steps, first = i % steps * kStep;
            const int64_t count = first + kStep < size ? kStep : size - first;
            const float* gate = x + row * 2 * size + first;
            table.swiglu(gate, gate + size, count, y + row * size + first);
        }
    });
}

void append_rotary(const float* qkv, const float* cos, const float* sin, int64_t tokens, int64_t heads,
                   int64_t half, const CacheShape& cache, Past past, float* key, float* value, float* query) {
    const KernelTable& table = kernels();
    const int64_t size = cache.head_dim, channels = (heads + 2 * cache.kv_heads) * size;
    parallel_for(cache.batch * tokens, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const int64_t row = i / tokens, token = i % tokens, column = past[row] + token;
            const float *c = cos + i * half, *s = sin + i * half, *in = qkv + i * channels;
            for (int64_t head = 0; head < heads; head++, in += size)
                table.rotate(in, c, s, half, size, query + ((row * heads + head) * tokens + token) * size);
            for (int64_t head = 0; head < cache.kv_heads; head++, in += size)
                table.rotate(in, c, s, half, size, key + cache.column(row, head, column));
            for (int64_t head = 0; head < cache.kv_heads; head++, in += size)
                std::memcpy(value + cache.column(row, head, column), in, size * sizeof(float));
        }
    });
}

void append_cache(const float* key, const float* value, int64_t tokens, const CacheShape& cache, Past past,
                  float* key_buffer, float* value_buffer) {
    const int64_t size = cache.head_dim;
    parallel_for(cache.batch * cache.kv_heads, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const int64_t row = i / cache.kv_heads, head = i % cache.kv_heads;
            for (int64_t token = 0, count; token < tokens; token += count) {
                const int64_t column = past[row] + token;
                count = std::min(tokens - token, cache.adjoining(column));
                const int64_t from = (i * tokens + token) * size, to = cache.column(row, head, column);
                std::memcpy(key_buffer + to, key + from, count * size * sizeof(float));
                std::memcpy(value_buffer + to, value + from, count * size * sizeof(float));
            }
        }
    });
}

}  // namespace paddle_glm
