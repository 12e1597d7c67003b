#include <memory>

#include "kernels.h"

namespace paddle_glm {
namespace {

void matmul_float32(const float* x, int64_t rows, const QuantizedMatrix& weight, int64_t row_begin,
                    int64_t row_end, float* y, int64_t y_stride) {
    std::unique_ptr<float[]> w(new float[weight.columns]);
    for (int64_t n = row_begin; n < row_end; n++) {
        dequantize_row(weight, n, w.get());
        for (int64_t m = 0; m < rows; m++) {
            const float* row = x + m * weight.columns;
            float sum = 0;
            for (int64_t k = 0; k < weight.columns; k++) sum += row[k] * w[k];
            y[m * y_stride + n] = sum;
        }
    }
}

}  // namespace

void fill_portable(KernelTable& table) { table.matmul_float32 = matmul_float32; }

}  // namespace paddle_glm
