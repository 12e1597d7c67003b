// Paddle operators of half a transformer block, from the functions of the single ones: fewer calls of the
// framework, each of which takes longer than a norm of one token. Tensors are float32 on the CPU, but
// weights.
#include <algorithm>

#include "operators.h"
#include "scratch.h"

namespace paddle_glm {
namespace {

using OptionalTensor = paddle::optional<Tensor>;
using OptionalShape = paddle::optional<Shape>;
using OptionalType = paddle::optional<DataType>;

// Rows of the perceptron that are computed at once, which bounds its memory.
constexpr int64_t kRows = 512;

void normalized(const float* x, int64_t rows, const Tensor& weight, int64_t size, float epsilon, float* y) {
    rms_norm(x, nullptr, float32_vector(weight, size, "weight"), rows, size, epsilon, nullptr, y);
}

void check_input(const Tensor& x, int64_t inputs, int64_t outputs) {
    check_float32(x, "x");
    PD_CHECK(x.shape().size() == 3 && x.shape()[2] == inputs && inputs == outputs,
             "x must be [batch, tokens, ", inputs,
             "], the first weight's inputs and the second one's outputs (", outputs, ")");
}

// mask: null for `cache_attention` without.
std::vector<Tensor> attention_half(const Tensor& x, const Tensor& norm, const Linear& qkv,
                                   const OptionalTensor& qkv_bias, const Tensor& cos, const Tensor& sin,
                                   const Cache& cache, const Tensor* mask, const Linear& dense, float epsilon,
                                   int heads, float scale, bool add_input, const std::string& arithmetic) {
    check_input(x, qkv.inputs(), dense.outputs());
    const int64_t batch = x.shape()[0], tokens = x.shape()[1], hidden = x.shape()[2], rows = batch * tokens;
    const Rotary rotary(cos, sin, cache.shape, tokens);
    const int64_t inner = heads * cache.shape.head_dim, channels = qkv.outputs();
    PD_CHECK(cache.shape.batch == batch && heads % cache.shape.kv_heads == 0 && dense.inputs() == inner &&
                 channels == inner + 2 * cache.shape.kv_heads * cache.shape.head_dim,
             "projections of ", channels, " outputs and ", dense.inputs(), " inputs do not fit ", heads,
             " heads and the cache");
    // The normalised input and, after the product, the queries; projections and, after them, the attention.
    const int64_t first = BlockMemory::padded(rows * std::max(hidden, inner));
    BlockMemory memory(first + BlockMemory::padded(rows * channels));
    float *query = memory.take(first), *projected = memory.take(rows * channels);
    Tensor y = paddle::empty(x.shape(), DataType::FLOAT32, x.place());
    normalized(x.data<float>(), rows, norm, hidden, epsilon, query);
    qkv.multiply(query, rows, projected);
    if (qkv_bias) add_vector(float32_vector(*qkv_bias, channels, "bias"), rows, channels, projected);
    append_rotary(projected, rotary.cos, rotary.sin, tokens, heads, rotary.half, cache.shape, cache.past,
                  cache.key, cache.value, query);
    attend(cache_attention(query, heads, tokens, cache, mask, scale, arithmetic, projected));
    dense.multiply(projected, rows, y.data<float>());
    if (add_input) add_rows(x.data<float>(), rows, hidden, y.data<float>());
    return {y};
}

std::vector<Tensor> attention_block(const Tensor& x, const Tensor& norm, const Tensor& qkv_weight,
                                    const OptionalTensor& qkv_scale, const OptionalTensor& qkv_bias,
                                    const Tensor& cos, const Tensor& sin, const Tensor& key_buffer,
                                    const Tensor& value_buffer, const Tensor& mask, const Tensor& past,
                                    const Tensor& dense_weight, const OptionalTensor& dense_scale,
                                    float epsilon, int bits, int heads, float scale, bool add_input,
                                    const std::string& arithmetic) {
    const Linear qkv(qkv_weight, qkv_scale, bits, arithmetic);
    const Linear dense(dense_weight, dense_scale, bits, arithmetic);
    const Cache cache(key_buffer, value_buffer, past, axis_size(x, 1, 3, "x"));
    return attention_half(x, norm, qkv, qkv_bias, cos, sin, cache, &mask, dense, epsilon, heads, scale,
                          add_input, arithmetic);
}

std::vector<Tensor> paged_attention_block(const Tensor& x, const Tensor& norm, const Tensor& qkv_weight,
                                          const OptionalTensor& qkv_scale, const OptionalTensor& qkv_bias,
                                          const Tensor& cos, const Tensor& sin, const Tensor& key_pages,
                                          const Tensor& value_pages, const Tensor& table, const Tensor& past,
                                          const Tensor& dense_weight, const OptionalTensor& dense_scale,
                                          float epsilon, int bits, int heads, float scale, bool add_input,
                                          const std::string& arithmetic) {
    const Linear qkv(qkv_weight, qkv_scale, bits, arithmetic);
    const Linear dense(dense_weight, dense_scale, bits, arithmetic);
    const Cache cache(key_pages, value_pages, table, past, axis_size(x, 1, 3, "x"));
    return attention_half(x, norm, qkv, qkv_bias, cos, sin, cache, nullptr, dense, epsilon, heads, scale,
                          add_input, arithmetic);
}

std::vector<Tensor> mlp_block(const Tensor& x, const Tensor& norm, const Tensor& up_weight,
                              const OptionalTensor& up_scale, const Tensor& down_weight,
                              const OptionalTensor& down_scale, float epsilon, int bits, bool add_input,
                              const std::string& arithmetic) {
    const Linear up(up_weight, up_scale, bits, arithmetic), down(down_weight, down_scale, bits, arithmetic);
    check_input(x, up.inputs(), down.outputs());
    const int64_t hidden = up.inputs(), inner = down.inputs(), rows = x.numel() / hidden;
    PD_CHECK(up.outputs() == 2 * inner, "the first weight has ", up.outputs(), " outputs: expected ",
             2 * inner);
    const int64_t most = std::min(rows, kRows);
    BlockMemory memory(BlockMemory::padded(most * std::max(hidden, inner)) +
                       BlockMemory::padded(most * 2 * inner));
    float *activated = memory.take(most * std::max(hidden, inner)), *gate_up = memory.take(most * 2 * inner);
    Tensor y = paddle::empty(x.shape(), DataType::FLOAT32, x.place());
    for (int64_t begin = 0; begin < rows; begin += kRows) {
        const int64_t count = std::min(kRows, rows - begin);
        const float* in = x.data<float>() + begin * hidden;
        float* out = y.data<float>() + begin * hidden;
        normalized(in, count, norm, hidden, epsilon, activated);
        up.multiply(activated, count, gate_up);
        swiglu(gate_up, count, inner, activated);
        down.multiply(activated, count, out);
        if (add_input) add_rows(in, count, hidden, out);
    }
    return {y};
}

std::vector<Shape> attention_block_shape(const Shape& x, const Shape&, const Shape&, const OptionalShape&,
                                         const OptionalShape&, const Shape&, const Shape&, const Shape&,
                                         const Shape&, const Shape&, const Shape&, const Shape&,
                                         const OptionalShape&, float, int, int, float, bool,
                                         const std::string&) {
    return {x};
}

std::vector<DataType> attention_block_type(DataType x, DataType, DataType, const OptionalType&,
                                           const OptionalType&, DataType, DataType, DataType, DataType,
                                           DataType, DataType, DataType, const OptionalType&) {
    return {x};
}

std::vector<Shape> mlp_block_shape(const Shape& x, const Shape&, const Shape&, const OptionalShape&,
                                   const Shape&, const OptionalShape&, float, int, bool, const std::string&) {
    return {x};
}

std::vector<DataType> mlp_block_type(DataType x, DataType, DataType, const OptionalType&, DataType,
                                     const OptionalType&) {
    return {x};
}

}  // namespace
}  // namespace paddle_glm

// attention(norm(x)), x added: weights with a scale are quantised in kernel order, others floating point
// numbers. Writes to KeyBuffer and ValueBuffer.
PD_BUILD_OP(paddle_glm_attention_block)
    .Inputs({"X", "Norm", "QkvWeight", paddle::Optional("QkvScale"), paddle::Optional("QkvBias"), "Cos",
             "Sin", "KeyBuffer", "ValueBuffer", "Mask", "Past", "DenseWeight",
             paddle::Optional("DenseScale")})
    .Outputs({"Y"})
    .Attrs({"epsilon: float", "bits: int", "num_heads: int", "scale: float", "add_input: bool",
            "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::attention_block))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::attention_block_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::attention_block_type));

// The same over pages: Table in place of Mask.
PD_BUILD_OP(paddle_glm_paged_attention_block)
    .Inputs({"X", "Norm", "QkvWeight", paddle::Optional("QkvScale"), paddle::Optional("QkvBias"), "Cos",
             "Sin", "KeyPages", "ValuePages", "Table", "Past", "DenseWeight", paddle::Optional("DenseScale")})
    .Outputs({"Y"})
    .Attrs({"epsilon: float", "bits: int", "num_heads: int", "scale: float", "add_input: bool",
            "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::paged_attention_block))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::attention_block_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::attention_block_type));

// down(swiglu(up(norm(x)))), x added.
PD_BUILD_OP(paddle_glm_mlp_block)
    .Inputs({"X", "Norm", "UpWeight", paddle::Optional("UpScale"), "DownWeight",
             paddle::Optional("DownScale")})
    .Outputs({"Y"})
    .Attrs({"epsilon: float", "bits: int", "add_input: bool", "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::mlp_block))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::mlp_block_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::mlp_block_type));
