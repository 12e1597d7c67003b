// Paddle operators of products with quantised weights in kernel order.
#include "matmul.h"
#include "paddle/extension.h"

namespace paddle_glm {
namespace {

using paddle::DataType;
using paddle::Tensor;
using Shape = std::vector<int64_t>;

// values: int8 [rows, columns * bits / 8]; scale: float32 [rows] or [rows, groups].
QuantizedMatrix quantized_matrix(const Tensor& values, const Tensor& scale, int bits) {
    QuantizedMatrix weight;
    weight.values = reinterpret_cast<const uint8_t*>(values.data<int8_t>());
    weight.scales = scale.data<float>();
    weight.rows = values.shape()[0];
    weight.columns = values.shape()[1] * 8 / bits;
    weight.group_size = scale.shape().size() == 1 ? weight.columns : weight.columns / scale.shape()[1];
    weight.bits = bits;
    return weight;
}

Arithmetic arithmetic_named(const std::string& name) {
    try {
        return parse_arithmetic(name.c_str());
    } catch (const std::invalid_argument& error) {
        PD_THROW(error.what());
    }
}

Shape with_last(Shape shape, int64_t last) {
    shape.back() = last;
    return shape;
}

std::vector<Tensor> quantized_linear(const Tensor& x, const Tensor& values, const Tensor& scale, int bits,
                                     const std::string& arithmetic) {
    const QuantizedMatrix weight = quantized_matrix(values, scale, bits);
    Tensor y = paddle::empty(with_last(x.shape(), weight.rows), DataType::FLOAT32, x.place());
    quantized_matmul(x.data<float>(), x.numel() / weight.columns, weight, arithmetic_named(arithmetic),
                     y.data<float>());
    return {y};
}

std::vector<Shape> linear_shape(const Shape& x, const Shape& values, const Shape&, int, const std::string&) {
    return {with_last(x, values[0])};
}

std::vector<Tensor> quantized_linear_transposed(const Tensor& dy, const Tensor& values, const Tensor& scale,
                                                int bits, const std::string& arithmetic) {
    const QuantizedMatrix weight = quantized_matrix(values, scale, bits);
    Tensor dx = paddle::empty(with_last(dy.shape(), weight.columns), DataType::FLOAT32, dy.place());
    quantized_matmul_input_grad(dy.data<float>(), dy.numel() / weight.rows, weight,
                                arithmetic_named(arithmetic), dx.data<float>());
    return {dx};
}

std::vector<Shape> grad_shape(const Shape& dy, const Shape& values, const Shape&, int bits,
                              const std::string&) {
    return {with_last(dy, values[1] * 8 / bits)};
}

std::vector<Tensor> quantized_embedding(const Tensor& ids, const Tensor& values, const Tensor& scale,
                                        int bits) {
    const QuantizedMatrix weight = quantized_matrix(values, scale, bits);
    Shape shape = ids.shape();
    shape.push_back(weight.columns);
    Tensor rows = paddle::empty(shape, DataType::FLOAT32, ids.place());
    for (int64_t i = 0; i < ids.numel(); i++) {
        const int64_t id = ids.data<int64_t>()[i];
        PD_CHECK(id >= 0 && id < weight.rows, "token id ", id, " is outside of the vocabulary of ",
                 weight.rows);
        dequantize_row(weight, id, rows.data<float>() + i * weight.columns);
    }
    return {rows};
}

std::vector<Shape> embedding_shape(Shape ids, const Shape& values, const Shape&, int bits) {
    ids.push_back(values[1] * 8 / bits);
    return {ids};
}

std::vector<DataType> float32_dtype(DataType, DataType, DataType) { return {DataType::FLOAT32}; }

}  // namespace
}  // namespace paddle_glm

// x: float32 [..., columns] -> float32 [..., rows].
PD_BUILD_OP(paddle_glm_quantized_linear)
    .Inputs({"X", "Values", "Scale"})
    .Outputs({"Y"})
    .Attrs({"bits: int", "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::quantized_linear))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::linear_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::float32_dtype));

// Gradient with respect to x: float32 [..., rows] -> [..., columns].
PD_BUILD_OP(paddle_glm_quantized_linear_transposed)
    .Inputs({"GradY", "Values", "Scale"})
    .Outputs({"GradX"})
    .Attrs({"bits: int", "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::quantized_linear_transposed))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::grad_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::float32_dtype));

// ids: int64 [...] -> rows of the weight, float32 [..., columns].
PD_BUILD_OP(paddle_glm_quantized_embedding)
    .Inputs({"Ids", "Values", "Scale"})
    .Outputs({"Rows"})
    .Attrs({"bits: int"})
    .SetKernelFn(PD_KERNEL(paddle_glm::quantized_embedding))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::embedding_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::float32_dtype));
