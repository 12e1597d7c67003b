#include "int8_matmul.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace paddle_glm {
namespace {

constexpr int64_t kAlignment = 64;

// Rows of x at once: as many as fit, beside a block of weights, into a second-level cache of 1 MiB. kRowStep
// is a multiple of the heights of all instruction sets' tiles.
constexpr int64_t kActivationBytes = 700 << 10;
constexpr int64_t kRowStep = 48;
constexpr int64_t kMostRows = 5 * kRowStep;

int64_t rows_at_once(int64_t columns) {
    return std::clamp(kActivationBytes / columns / kRowStep * kRowStep, kRowStep, kMostRows);
}

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Room for `rows` rows in the memory of this thread.
Int8Activations activations(int64_t rows, const Parts& parts) {
    // Tiles of AMX read whole lines of 64 bytes, also behind the last row.
    const int64_t value_bytes = aligned(parts.count * rows * parts.size + kAlignment);
    const int64_t scale_bytes = aligned(parts.count * rows * sizeof(float));
    uint8_t* memory = scratch(Scratch::kActivations, value_bytes + 2 * scale_bytes);
    return {rows, parts.size, reinterpret_cast<int8_t*>(memory),
            reinterpret_cast<float*>(memory + value_bytes),
            reinterpret_cast<int32_t*>(memory + value_bytes + scale_bytes)};
}

// Rows [row_begin, row_end) of x, float32 [out.rows, weight.columns], to int8.
void quantize(const KernelTable& table, const float* x, int64_t row_begin, int64_t row_end,
              const QuantizedMatrix& weight, const Int8Activations& out) {
    const Parts parts(weight);
    for (int64_t m = row_begin; m < row_end; m++)
        for (int64_t part = 0; part < parts.count; part++) {
            const int64_t at = part * out.rows + m;
            int32_t sum;
            out.scales[at] = table.quantize_part(x + m * weight.columns + parts.begin(part),
                                                 parts.length(part), out.values + at * out.stride, &sum);
            out.corrections[at] = -weight.offset() * sum;
        }
}

// Rows behind the last whole block: few, in the hub's order.
void matmul_tail(const Int8Activations& x, const QuantizedMatrix& weight, float* y) {
    const Parts parts(weight);
    uint8_t* row = scratch(Scratch::kTile, weight.columns);
    const int32_t offset = weight.offset();
    for (int64_t n = weight.blocks() * kBlockRows; n < weight.rows; n++) {
        stored_row(weight, n, row);
        const float* scales = weight.scales + n * weight.groups();
        for (int64_t m = 0; m < x.rows; m++) {
            float total = 0;
            for (int64_t part = 0; part < parts.count; part++) {
                const int8_t* values = x.part_values(part) + m * x.stride;
                const uint8_t* stored = row + parts.begin(part);
                int32_t sum = 0;
                for (int64_t i = 0; i < parts.length(part); i++) sum += values[i] * (stored[i] - offset);
                total +=
                    static_cast<float>(sum) * (x.scales[part * x.rows + m] * scales[part / parts.per_group]);
            }
            y[m * weight.rows + n] = total;
        }
    }
}

}  // namespace

void matmul_int8(const float* x, int64_t rows, const QuantizedMatrix& weight, float* y) {
    const KernelTable& table = kernels();
    const Parts parts(weight);
    const int64_t most = rows_at_once(weight.columns);
    for (int64_t begin = 0, end; begin < rows; begin = end) {
        // A few rows more are cheaper than reading the weights again for them.
        end = rows - begin > most + most / 4 ? begin + most : rows;
        const Int8Activations chunk = activations(end - begin, parts);
        const float* inputs = x + begin * weight.columns;
        float* outputs = y + begin * weight.rows;
        parallel_for(chunk.rows, 4, [&](int64_t first, int64_t last) {
            quantize(table, inputs, first, last, weight, chunk);
        });
        parallel_for(weight.blocks(), 2, [&](int64_t first, int64_t last) {
            table.matmul_int8(chunk, weight, first, last, outputs);
        });
        matmul_tail(chunk, weight, outputs);
    }
}

}  // namespace paddle_glm
