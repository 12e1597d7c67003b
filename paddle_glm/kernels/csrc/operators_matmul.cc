// Paddle operators of products with quantised weights in kernel order and with weights of floating point
// numbers. `half_linear` has the name of the weights that it began with: exported graphs have it.
#include "operators.h"

namespace paddle_glm {
namespace {

// parse(name), with its exception as Paddle's.
template <class Parse>
Arithmetic parsed(const std::string& name, const Parse& parse) {
    try {
        return parse(name.c_str());
    } catch (const std::invalid_argument& error) {
        PD_THROW(error.what());
    }
}

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

// weight: float16, bfloat16 or float32 [rows, columns].
FloatMatrix float_matrix(const Tensor& weight) {
    const DataType dtype = weight.dtype();
    PD_CHECK(dtype == DataType::FLOAT16 || dtype == DataType::BFLOAT16 || dtype == DataType::FLOAT32,
             "weight of dtype ", dtype, ": expected float16, bfloat16 or float32");
    PD_CHECK(weight.shape().size() == 2, "weight of ", weight.shape().size(),
             " dimensions: expected [out, in]");
    FloatMatrix matrix;
    matrix.values = weight.data();
    matrix.rows = weight.shape()[0];
    matrix.columns = weight.shape()[1];
    matrix.type = dtype == DataType::FLOAT16    ? FloatType::kFloat16
                  : dtype == DataType::BFLOAT16 ? FloatType::kBfloat16
                                                : FloatType::kFloat32;
    return matrix;
}

Arithmetic float_arithmetic_named(const std::string& name, FloatType type) {
    return parsed(name, [&](const char* text) { return parse_float_arithmetic(text, type); });
}

Shape with_last(Shape shape, int64_t last) {
    shape.back() = last;
    return shape;
}

// The number of rows of x: float32 [..., width].
int64_t count_rows(const Tensor& x, int64_t width) {
    PD_CHECK(!x.shape().empty() && x.shape().back() == width, "input of width ",
             x.shape().empty() ? 0 : x.shape().back(), ": expected ", width);
    return width == 0 ? 0 : x.numel() / width;
}

std::vector<Tensor> multiplied(const Tensor& x, const Linear& linear) {
    Tensor y = paddle::empty(with_last(x.shape(), linear.outputs()), DataType::FLOAT32, x.place());
    linear.multiply(x.data<float>(), count_rows(x, linear.inputs()), y.data<float>());
    return {y};
}

}  // namespace

Arithmetic arithmetic_named(const std::string& name) { return parsed(name, parse_arithmetic); }

Linear::Linear(const Tensor& weight, const paddle::optional<Tensor>& scale, int bits,
               const std::string& arithmetic)
    : quantized_(scale) {
    if (quantized_)
        quantized_matrix_ = quantized_matrix(weight, *scale, bits);
    else
        float_matrix_ = float_matrix(weight);
    arithmetic_ =
        quantized_ ? arithmetic_named(arithmetic) : float_arithmetic_named(arithmetic, float_matrix_.type);
}

void Linear::multiply(const float* x, int64_t rows, float* y) const {
    if (quantized_)
        quantized_matmul(x, rows, quantized_matrix_, arithmetic_, y);
    else
        float_matmul(x, rows, float_matrix_, arithmetic_, y);
}

namespace {

std::vector<Tensor> quantized_linear(const Tensor& x, const Tensor& values, const Tensor& scale, int bits,
                                     const std::string& arithmetic) {
    return multiplied(x, Linear(values, scale, bits, arithmetic));
}

std::vector<Shape> linear_shape(const Shape& x, const Shape& values, const Shape&, int, const std::string&) {
    return {with_last(x, values[0])};
}

std::vector<Tensor> quantized_linear_transposed(const Tensor& dy, const Tensor& values, const Tensor& scale,
                                                int bits, const std::string& arithmetic) {
    const QuantizedMatrix weight = quantized_matrix(values, scale, bits);
    Tensor dx = paddle::empty(with_last(dy.shape(), weight.columns), DataType::FLOAT32, dy.place());
    float_matmul_transposed(dy.data<float>(), count_rows(dy, weight.rows), weight,
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
        dequantize(weight, id, 0, weight.columns, rows.data<float>() + i * weight.columns);
    }
    return {rows};
}

std::vector<Shape> embedding_shape(Shape ids, const Shape& values, const Shape&, int bits) {
    ids.push_back(values[1] * 8 / bits);
    return {ids};
}

std::vector<Tensor> half_linear(const Tensor& x, const Tensor& weight, const std::string& arithmetic) {
    return multiplied(x, Linear(weight, paddle::none, 0, arithmetic));
}

std::vector<Shape> half_linear_shape(const Shape& x, const Shape& weight, const std::string&) {
    return {with_last(x, weight[0])};
}

std::vector<Tensor> half_linear_transposed(const Tensor& dy, const Tensor& weight,
                                           const std::string& arithmetic) {
    const FloatMatrix matrix = float_matrix(weight);
    const int64_t rows = count_rows(dy, matrix.rows);
    Tensor dx = paddle::empty(with_last(dy.shape(), matrix.columns), DataType::FLOAT32, dy.place());
    float_matmul_transposed(dy.data<float>(), rows, matrix, float_arithmetic_named(arithmetic, matrix.type),
                            dx.data<float>());
    return {dx};
}

std::vector<Shape> half_grad_shape(const Shape& dy, const Shape& weight, const std::string&) {
    return {with_last(dy, weight[1])};
}

std::vector<DataType> half_dtype(DataType, DataType) { return {DataType::FLOAT32}; }

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

// x: float32 [..., columns] -> float32 [..., rows].
PD_BUILD_OP(paddle_glm_half_linear)
    .Inputs({"X", "Weight"})
    .Outputs({"Y"})
    .Attrs({"arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::half_linear))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::half_linear_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::half_dtype));

// Gradient with respect to x: float32 [..., rows] -> [..., columns].
PD_BUILD_OP(paddle_glm_half_linear_transposed)
    .Inputs({"GradY", "Weight"})
    .Outputs({"GradX"})
    .Attrs({"arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::half_linear_transposed))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::half_grad_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::half_dtype));
