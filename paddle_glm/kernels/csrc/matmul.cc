#include "matmul.h"

#include <algorithm>
#include <memory>

#include "parallel.h"

namespace paddle_glm {

void quantized_matmul(const float* x, int64_t rows, const QuantizedMatrix& weight, Arithmetic arithmetic,
                      float* y) {
    if (arithmetic == Arithmetic::kInt8) return matmul_int8(x, rows, weight, y);
    const KernelTable& table = kernels();
    parallel_for(weight.rows, 2 * kBlockRows, [&](int64_t begin, int64_t end) {
        table.matmul_float32(x, rows, weight, begin, end, y, weight.rows);
    });
}

void quantized_matmul_input_grad(const float* dy, int64_t rows, const QuantizedMatrix& weight, Arithmetic,
                                 float* dx) {
    const int64_t columns = weight.columns;
    std::unique_ptr<float[]> row(new float[columns]);
    std::fill(dx, dx + rows * columns, 0.0f);
    for (int64_t n = 0; n < weight.rows; n++) {
        dequantize_row(weight, n, row.get());
        parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
            for (int64_t m = begin; m < end; m++)
                for (int64_t k = 0; k < columns; k++) dx[m * columns + k] += dy[m * weight.rows + n] * row[k];
        });
    }
}

}  // namespace paddle_glm
