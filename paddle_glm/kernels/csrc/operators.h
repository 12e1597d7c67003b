// What the files of Paddle operators share: their arguments, checked, for the functions without Paddle.
#pragma once

#include "attention.h"
#include "float_matmul.h"
#include "matmul.h"
#include "paddle/phi/api/all.h"

namespace paddle_glm {

using paddle::DataType;
using paddle::Tensor;
using Shape = std::vector<int64_t>;

void check_float32(const Tensor& tensor, const char* name);

// A vector [size] of any float dtype in float32, valid until the next product, norm or operator.
const float* float32_vector(const Tensor& vector, int64_t size, const char* name);

// `parse_arithmetic`, with its exception as Paddle's.
Arithmetic arithmetic_named(const std::string& name);

// A weight [outputs, inputs] of float16 or bfloat16, or with `scale` of `bits` bits in kernel order.
class Linear {
  public:
    Linear(const Tensor& weight, const paddle::optional<Tensor>& scale, int bits,
           const std::string& arithmetic);

    int64_t inputs() const { return quantized_ ? quantized_matrix_.columns : float_matrix_.columns; }
    int64_t outputs() const { return quantized_ ? quantized_matrix_.rows : float_matrix_.rows; }

    // y = x weight^T. x: float32 [rows, inputs]; y: float32 [rows, outputs].
    void multiply(const float* x, int64_t rows, float* y) const;

  private:
    bool quantized_;
    QuantizedMatrix quantized_matrix_{};
    FloatMatrix float_matrix_{};
    Arithmetic arithmetic_;
};

// A layer's cache, which operators write to although it is their input.
struct Cache {
    CacheShape shape;
    Past past;
    float *key, *value;

    // Buffers [batch, key/value heads, capacity, head_dim]; past: int64 [1].
    Cache(const Tensor& key_buffer, const Tensor& value_buffer, const Tensor& past, int64_t tokens);
    // Pages [number, key/value heads, kPageColumns, head_dim]; table: int64 [batch, pages]; past: int64
    // [batch].
    Cache(const Tensor& key_pages, const Tensor& value_pages, const Tensor& table, const Tensor& past,
          int64_t tokens);
};

// cos and sin: [batch, 1, tokens, half].
struct Rotary {
    const float *cos, *sin;
    int64_t half;

    Rotary(const Tensor& cos, const Tensor& sin, const CacheShape& cache, int64_t tokens);
};

// The attention of `tokens` queries of each head to the cache, those of the operator included. mask: [batch
// or 1, 1, tokens, all columns or more]; null: no token sees a later one.
Attention cache_attention(const float* query, int64_t heads, int64_t tokens, const Cache& cache,
                          const Tensor* mask, float scale, const std::string& arithmetic, float* output);

// The operators' results, with pages or without.
std::vector<Tensor> append_rotary(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Cache& cache,
                                  int num_heads, int num_kv_heads);
void append_cache(const Tensor& key, const Tensor& value, const Cache& cache);
std::vector<Tensor> cached_attention(const Tensor& query, const Cache& cache, const Tensor* mask, float scale,
                                     const std::string& arithmetic);

// Size of axis `axis` of a tensor of `axes` axes.
int64_t axis_size(const Tensor& tensor, int64_t axis, size_t axes, const char* name);

}  // namespace paddle_glm
