#include <memory>

#include "kernels.h"

namespace paddle_glm {
namespace {

// Sums of float32 products in independent parts: exact enough for long rows, and vectors of any width.
float dot(const float* a, const float* b, int64_t count) {
    constexpr int kParts = 16;
    float parts[kParts] = {};
    int64_t i = 0;
    for (; i + kParts <= count; i += kParts)
        for (int p = 0; p < kParts; p++) parts[p] += a[i + p] * b[i + p];
    float sum = 0;
    for (; i < count; i++) sum += a[i] * b[i];
    for (float part : parts) sum += part;
    return sum;
}

// y = x weight^T for weight rows [row_begin, row_end); read(row, column, count, out) gives float weights.
template <class Read>
void few_rows(const float* x, int64_t rows, int64_t columns, int64_t row_begin, int64_t row_end,
              const Read& read, float* y, int64_t y_stride) {
    std::unique_ptr<float[]> weights(new float[columns]);
    for (int64_t n = row_begin; n < row_end; n++) {
        read(n, 0, columns, weights.get());
        for (int64_t m = 0; m < rows; m++) y[m * y_stride + n] = dot(x + m * columns, weights.get(), columns);
    }
}

template <class Read>
void widen(const WeightTile& tile, const Read& read, float* panel) {
    std::unique_ptr<float[]> weights(new float[tile.columns]);
    for (int64_t r = 0; r < kPanelWidth; r++) {
        if (r < tile.rows) read(tile.row + r, tile.column, tile.columns, weights.get());
        for (int64_t c = 0; c < tile.columns; c++)
            panel[c * kPanelWidth + r] = r < tile.rows ? weights[c] : 0;
    }
}

template <class Read>
void widen_transposed(const WeightTile& tile, const Read& read, float* panel) {
    for (int64_t r = 0; r < tile.rows; r++, panel += kPanelWidth) {
        read(tile.row + r, tile.column, tile.columns, panel);
        for (int64_t c = tile.columns; c < kPanelWidth; c++) panel[c] = 0;
    }
}

auto reader(const QuantizedMatrix& weight) {
    return [&weight](int64_t row, int64_t column, int64_t count, float* out) {
        dequantize(weight, row, column, count, out);
    };
}

auto reader(const FloatMatrix& weight) {
    return [&weight](int64_t row, int64_t column, int64_t count, float* out) {
        with_type(weight.type, [&](auto type) {
            const auto* values = weight.row<type.value>(row) + column;
            for (int64_t i = 0; i < count; i++) out[i] = to_float(values[i], type);
        });
    };
}

template <class Matrix>
void few_rows_of(const float* x, int64_t rows, const Matrix& weight, int64_t row_begin, int64_t row_end,
                 float* y, int64_t y_stride) {
    few_rows(x, rows, weight.columns, row_begin, row_end, reader(weight), y, y_stride);
}

template <class Matrix>
void widen_of(const Matrix& weight, const WeightTile& tile, float* panel) {
    widen(tile, reader(weight), panel);
}

template <class Matrix>
void widen_transposed_of(const Matrix& weight, const WeightTile& tile, float* panel) {
    widen_transposed(tile, reader(weight), panel);
}

void multiply_panel(const float* x, int64_t x_stride, int64_t rows, const float* panel, int64_t depth,
                    float* y, int64_t y_stride, bool add) {
    constexpr int kWidth = 16;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t c = 0; c < kPanelWidth; c += kWidth) {
            float sums[kWidth] = {};
            for (int64_t k = 0; k < depth; k++)
                for (int i = 0; i < kWidth; i++)
                    sums[i] += x[m * x_stride + k] * panel[k * kPanelWidth + c + i];
            float* out = y + m * y_stride + c;
            for (int i = 0; i < kWidth; i++) out[i] = add ? out[i] + sums[i] : sums[i];
        }
}

}  // namespace

void fill_float_portable(KernelTable& kernels) {
    FloatKernels& table = kernels.floats;
    table.quantized_few_rows = few_rows_of<QuantizedMatrix>;
    table.float_few_rows = few_rows_of<FloatMatrix>;
    table.widen_quantized = widen_of<QuantizedMatrix>;
    table.widen_float = widen_of<FloatMatrix>;
    table.widen_quantized_transposed = widen_transposed_of<QuantizedMatrix>;
    table.widen_float_transposed = widen_transposed_of<FloatMatrix>;
    table.multiply_panel = multiply_panel;
}

}  // namespace paddle_glm
