#include "matmul.h"

#include "float_matmul.h"
#include "int8_matmul.h"

namespace paddle_glm {

void quantized_matmul(const float* x, int64_t rows, const QuantizedMatrix& weight, Arithmetic arithmetic,
                      float* y) {
    if (arithmetic == Arithmetic::kInt8) return matmul_int8(x, rows, weight, y);
    float_matmul(x, rows, weight, arithmetic, y);
}

}  // namespace paddle_glm
