// Products with quantised weights.
#pragma once

#include "kernels.h"

namespace paddle_glm {

// y = x weight^T. x: float32 [rows, columns]; y: float32 [rows, weight.rows].
void quantized_matmul(const float* x, int64_t rows, const QuantizedMatrix& weight, Arithmetic arithmetic,
                      float* y);

// dx = dy weight, the gradient of the input. dy: float32 [rows, weight.rows]; dx: float32 [rows, columns].
void quantized_matmul_input_grad(const float* dy, int64_t rows, const QuantizedMatrix& weight,
                                 Arithmetic arithmetic, float* dx);

}  // namespace paddle_glm
