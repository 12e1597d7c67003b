// Products with quantised weights.
#pragma once

#include "kernels.h"

namespace paddle_glm {

// y = x weight^T. x: float32 [rows, columns]; y: float32 [rows, weight.rows].
void quantized_matmul(const float* x, int64_t rows, const QuantizedMatrix& weight, Arithmetic arithmetic,
                      float* y);

}  // namespace paddle_glm
