// Paddle operators of training.h, with their gradients. All tensors are float32 on the CPU, labels int64.
#include "paddle/phi/api/all.h"
#include "training.h"

namespace paddle_glm {
namespace {

using paddle::DataType;
using paddle::Tensor;
using Shape = std::vector<int64_t>;

Tensor new_float32(const Shape& shape, const Tensor& like) {
    return paddle::empty(shape, DataType::FLOAT32, like.place());
}

std::vector<Tensor> rms_norm_forward(const Tensor& x, const Tensor& weight, float epsilon) {
    Shape rows = x.shape();
    const int64_t size = rows.back();
    rows.pop_back();
    PD_CHECK(weight.numel() == size, "weight has ", weight.numel(), " elements: expected ", size);
    Tensor y = new_float32(x.shape(), x), factor = new_float32(rows, x);
    rms_norm_training(x.data<float>(), weight.data<float>(), factor.numel(), size, epsilon, y.data<float>(),
                      factor.data<float>());
    return {y, factor};
}

std::vector<Tensor> rms_norm_backward(const Tensor& x, const Tensor& weight, const Tensor& factor,
                                      const Tensor& dy) {
    Tensor dx = new_float32(x.shape(), x), dweight = new_float32(weight.shape(), x);
    rms_norm_training_grad(x.data<float>(), weight.data<float>(), factor.data<float>(), dy.data<float>(),
                           factor.numel(), weight.numel(), dx.data<float>(), dweight.data<float>());
    return {dx, dweight};
}

std::vector<Tensor> swiglu_forward(const Tensor& x) {
    Shape shape = x.shape();
    PD_CHECK(shape.back() % 2 == 0, "the last axis must be even, not ", shape.back());
    shape.back() /= 2;
    Tensor y = new_float32(shape, x);
    swiglu_training(x.data<float>(), y.numel() / shape.back(), shape.back(), y.data<float>());
    return {y};
}

std::vector<Tensor> swiglu_backward(const Tensor& x, const Tensor& dy) {
    Tensor dx = new_float32(x.shape(), x);
    const int64_t size = dy.shape().back();
    swiglu_training_grad(x.data<float>(), dy.data<float>(), dy.numel() / size, size, dx.data<float>());
    return {dx};
}

// qkv [batch, tokens, width]; cos [batch, 1, tokens, half].
Projection projection(const Shape& qkv, const Tensor& cos, int heads, int kv_heads, float scale) {
    Projection sizes{qkv[0], qkv[1], heads, kv_heads, qkv[2] / (heads + 2 * kv_heads), cos.shape().back(),
                     scale};
    PD_CHECK(sizes.width() == qkv[2] && cos.numel() == qkv[0] * qkv[1] * sizes.half &&
                 2 * sizes.half <= sizes.head_dim,
             "cos and sin must be [batch, 1, tokens, half], for heads that qkv has");
    return sizes;
}

std::vector<Tensor> split_rotary_forward(const Tensor& qkv, const Tensor& cos, const Tensor& sin, int heads,
                                         int kv_heads, float scale) {
    const Projection sizes = projection(qkv.shape(), cos, heads, kv_heads, scale);
    Tensor query = new_float32({sizes.batch, heads, sizes.tokens, sizes.head_dim}, qkv);
    Tensor key = new_float32({sizes.batch, kv_heads, sizes.tokens, sizes.head_dim}, qkv);
    Tensor value = new_float32(key.shape(), qkv);
    split_rotary(sizes, qkv.data<float>(), cos.data<float>(), sin.data<float>(), query.data<float>(),
                 key.data<float>(), value.data<float>());
    return {query, key, value};
}

std::vector<Tensor> split_rotary_backward(const Tensor& cos, const Tensor& sin, const Tensor& dquery,
                                          const Tensor& dkey, const Tensor& dvalue, int heads, int kv_heads,
                                          float scale) {
    const Shape shape = dquery.shape();
    const Shape qkv = {shape[0], shape[2], (heads + 2 * kv_heads) * shape[3]};
    Tensor dqkv = new_float32(qkv, dquery);
    split_rotary_grad(projection(qkv, cos, heads, kv_heads, scale), dquery.data<float>(), dkey.data<float>(),
                      dvalue.data<float>(), cos.data<float>(), sin.data<float>(), dqkv.data<float>());
    return {dqkv};
}

// scores: [batch, groups, heads of a group * tokens, total]; mask: [batch or 1, 1, tokens, total].
std::vector<Tensor> masked_softmax_forward(const Tensor& scores, const Tensor& mask) {
    const Shape shape = scores.shape(), masked = mask.shape();
    const int64_t batch = shape[0], tokens = masked[2], rows = shape[1] * shape[2];
    PD_CHECK(masked[3] == shape[3] && rows % tokens == 0 && (masked[0] == 1 || masked[0] == batch),
             "the mask must be [batch or 1, 1, tokens, total]");
    Tensor y = new_float32(shape, scores);
    masked_softmax(scores.data<float>(), mask.data<float>(), batch, rows / tokens, tokens, shape[3],
                   masked[0] != 1, y.data<float>());
    return {y};
}

std::vector<Tensor> masked_softmax_backward(const Tensor& y, const Tensor& dy) {
    Tensor dx = new_float32(y.shape(), y);
    const int64_t size = y.shape().back();
    masked_softmax_grad(y.data<float>(), dy.data<float>(), y.numel() / size, size, dx.data<float>());
    return {dx};
}

std::vector<Tensor> softmax_statistics_op(const Tensor& logits, const Tensor& labels, int64_t first) {
    const int64_t size = logits.shape().back();
    Tensor maximum = new_float32(labels.shape(), logits), sum = new_float32(labels.shape(), logits);
    Tensor target = new_float32(labels.shape(), logits);
    softmax_statistics(logits.data<float>(), labels.data<int64_t>(), labels.numel(), size, first,
                       maximum.data<float>(), sum.data<float>(), target.data<float>());
    return {maximum, sum, target};
}

std::vector<Tensor> cross_entropy_grad_op(const Tensor& logits, const Tensor& labels, const Tensor& logsumexp,
                                          const Tensor& scale, int64_t first) {
    Tensor dlogits = new_float32(logits.shape(), logits);
    cross_entropy_grad(logits.data<float>(), labels.data<int64_t>(), logsumexp.data<float>(),
                       scale.data<float>(), labels.numel(), logits.shape().back(), first,
                       dlogits.data<float>());
    return {dlogits};
}

}  // namespace
}  // namespace paddle_glm

// x [..., size], weight [size] -> y, and a factor for each row.
PD_BUILD_OP(paddle_glm_rms_norm_training)
    .Inputs({"X", "Weight"})
    .Outputs({"Y", "Factor"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddle_glm::rms_norm_forward));
PD_BUILD_GRAD_OP(paddle_glm_rms_norm_training)
    .Inputs({"X", "Weight", "Factor", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(paddle_glm::rms_norm_backward));

// x [..., 2 * size] -> [..., size].
PD_BUILD_OP(paddle_glm_swiglu_training)
    .Inputs({"X"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(paddle_glm::swiglu_forward));
PD_BUILD_GRAD_OP(paddle_glm_swiglu_training)
    .Inputs({"X", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(paddle_glm::swiglu_backward));

// qkv [batch, tokens, width], cos and sin [batch, 1, tokens, half] -> query, key, value by heads.
PD_BUILD_OP(paddle_glm_split_rotary)
    .Inputs({"Qkv", "Cos", "Sin"})
    .Outputs({"Query", "Key", "Value"})
    .Attrs({"heads: int", "kv_heads: int", "scale: float"})
    .SetKernelFn(PD_KERNEL(paddle_glm::split_rotary_forward));
PD_BUILD_GRAD_OP(paddle_glm_split_rotary)
    .Inputs({"Cos", "Sin", paddle::Grad("Query"), paddle::Grad("Key"), paddle::Grad("Value")})
    .Outputs({paddle::Grad("Qkv")})
    .Attrs({"heads: int", "kv_heads: int", "scale: float"})
    .SetKernelFn(PD_KERNEL(paddle_glm::split_rotary_backward));

PD_BUILD_OP(paddle_glm_masked_softmax)
    .Inputs({"Scores", "Mask"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(paddle_glm::masked_softmax_forward));
PD_BUILD_GRAD_OP(paddle_glm_masked_softmax)
    .Inputs({"Y", paddle::Grad("Y")})
    .Outputs({paddle::Grad("Scores")})
    .SetKernelFn(PD_KERNEL(paddle_glm::masked_softmax_backward));

// The gradient of the scores of a softmax, for functions that compute their own backward pass.
PD_BUILD_OP(paddle_glm_softmax_vjp)
    .Inputs({"Y", "DY"})
    .Outputs({"DX"})
    .SetKernelFn(PD_KERNEL(paddle_glm::masked_softmax_backward));

// logits [..., size], labels [...] -> maximum, sum and target [...].
PD_BUILD_OP(paddle_glm_softmax_statistics)
    .Inputs({"Logits", "Labels"})
    .Outputs({"Maximum", "Sum", "Target"})
    .Attrs({"first: int64_t"})
    .SetKernelFn(PD_KERNEL(paddle_glm::softmax_statistics_op));

PD_BUILD_OP(paddle_glm_softmax_minus_label)
    .Inputs({"Logits", "Labels", "LogSumExp", "Scale"})
    .Outputs({"GradLogits"})
    .Attrs({"first: int64_t"})
    .SetKernelFn(PD_KERNEL(paddle_glm::cross_entropy_grad_op));
