// Operations of a transformer block between its products: norms, activation, rotary embedding; see also
// attention.h. Activations are float32, row-major; functions are parallel over rows or heads.
#pragma once

#include "float_types.h"
#include "kernels.h"

namespace paddle_glm {

// y = x / sqrt(mean(x^2) + epsilon) * weight for rows of `size`; with `residual`, x + residual is taken for x
// and written to `sum`. residual, sum: null, or as x.
void rms_norm(const float* x, const float* residual, const float* weight, int64_t rows, int64_t size,
              float epsilon, float* sum, float* y);

// A norm's half precision weight as float32 [size], in memory of this thread that the next operator reuses.
const float* widen(const uint16_t* weight, FloatType type, int64_t size);

// y += what is added, for rows of `size`: a vector [size], or [rows, size].
void add_vector(const float* vector, int64_t rows, int64_t size, float* y);
void add_rows(const float* x, int64_t rows, int64_t size, float* y);

// y = silu(first half of x) * second half. x: [rows, 2 * size]; y: [rows, size].
void swiglu(const float* x, int64_t rows, int64_t size, float* y);

constexpr int64_t kPageColumns = 64;

// Where a cache's columns are: key and value are [batch, kv_heads, capacity, head_dim]. With a table they are
// pages, [any number, kv_heads, kPageColumns, head_dim], and the columns of a row from i * kPageColumns on
// are those of page table[row][i]; capacity is a row's pages * kPageColumns.
struct CacheShape {
    int64_t batch, kv_heads, capacity, head_dim;
    const int64_t* table = nullptr;

    int64_t column(int64_t row, int64_t head, int64_t column) const {
        if (table == nullptr) return ((row * kv_heads + head) * capacity + column) * head_dim;
        const int64_t page = table[row * (capacity / kPageColumns) + column / kPageColumns];
        return ((page * kv_heads + head) * kPageColumns + column % kPageColumns) * head_dim;
    }
    // How many columns from this one on follow each other in memory.
    int64_t adjoining(int64_t column) const {
        return table == nullptr ? capacity - column : kPageColumns - column % kPageColumns;
    }
};

// Columns in use before a step's tokens: the same number in all rows, or one of each row.
struct Past {
    int64_t same = 0;
    const int64_t* of_rows = nullptr;

    int64_t operator[](int64_t row) const { return of_rows == nullptr ? same : of_rows[row]; }
};

// Splits qkv [batch, tokens, (heads + 2 * kv_heads) * head_dim] into blocks of queries, keys and values,
// rotates adjacent pairs of the first 2 * half channels of each query and key, and writes keys and values to
// columns past.. of the cache. cos, sin: [batch, tokens, half]; query: [batch, heads, tokens, head_dim].
void append_rotary(const float* qkv, const float* cos, const float* sin, int64_t tokens, int64_t heads,
                   int64_t half, const CacheShape& cache, Past past, float* key, float* value, float* query);

// Copies key and value, [batch, kv_heads, tokens, head_dim], to columns past.. of the cache.
void append_cache(const float* key, const float* value, int64_t tokens, const CacheShape& cache, Past past,
                  float* key_buffer, float* value_buffer);

}  // namespace paddle_glm
