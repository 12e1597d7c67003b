// Products in float32 or bfloat16 arithmetic; kInt8 is none of theirs.
#pragma once

#include "float_kernels.h"
#include "kernels.h"

namespace paddle_glm {

// y = x weight^T. x: float32 [rows, weight.columns]; y: float32 [rows, weight.rows].
void float_matmul(const float* x, int64_t rows, const QuantizedMatrix& weight, Arithmetic arithmetic,
                  float* y);
void float_matmul(const float* x, int64_t rows, const FloatMatrix& weight, Arithmetic arithmetic, float* y);

// dx = dy weight, the gradient of the input. dy: float32 [rows, weight.rows]; dx: float32 [rows,
// weight.columns].
void float_matmul_transposed(const float* dy, int64_t rows, const QuantizedMatrix& weight,
                             Arithmetic arithmetic, float* dx);
void float_matmul_transposed(const float* dy, int64_t rows, const FloatMatrix& weight, Arithmetic arithmetic,
                             float* dx);

// The arithmetic of products with weights of floating point numbers: what `name` (or, for "auto",
// PADDLE_GLM_ARITHMETIC) says, where int8 means bfloat16. Without either, bfloat16 for bfloat16 weights and
// float32 for the others, which bfloat16 would round.
Arithmetic parse_float_arithmetic(const char* name, FloatType type);

}  // namespace paddle_glm
