#include "float_matmul.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "parallel.h"
#include "scratch.h"

namespace paddle_glm {
namespace {

// Rows of x that are multiplied by a panel before the next: their part of kPanelDepth inputs stays in cache
// too.
constexpr int64_t kRowChunk = 256;

// Weight rows that tiles of x take turns with: a multiple of what a kernel takes at once.
constexpr int64_t kWeightRows = 48;

// The buffers of one thread.
constexpr int64_t kPanelBytes = kPanelDepth * kPanelWidth * sizeof(float);
constexpr int64_t kPairBytes = kPanelBytes / 2;
constexpr int64_t kTailBytes = kRowChunk * kPanelWidth * sizeof(float);

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// x as bfloat16, [rows, inner rounded up to even], padded with zeros.
const uint16_t* rounded(const FloatKernels& kernels, const float* x, int64_t rows, int64_t inner) {
    const int64_t stride = round_up(inner, 2);
    auto* result = reinterpret_cast<uint16_t*>(scratch(Scratch::kActivations, rows * stride * 2));
    parallel_for(rows, 8, [&](int64_t begin, int64_t end) {
        for (int64_t m = begin; m < end; m++) {
            kernels.round_bfloat16(x + m * inner, inner, result + m * stride);
            if (stride > inner) result[m * stride + inner] = 0;
        }
    });
    return result;
}

const uint16_t* few_rows_rounded(const FloatKernels& kernels, const float* x, int64_t rows, int64_t columns) {
    auto* result = reinterpret_cast<uint16_t*>(scratch(Scratch::kActivations, rows * columns * 2));
    for (int64_t m = 0; m < rows; m++) kernels.round_few_rows(x + m * columns, columns, result + m * columns);
    return result;
}

// y = x matrix for `rows` <= kRowChunk rows. x: float32 [rows, inner]; matrix: [inner, outputs], of which
// widen(output, width, begin, depth, panel) gives a panel; y: float32 [rows, outputs].
template <class Widen>
void multiply_chunk(const FloatKernels& kernels, const float* x, int64_t rows, int64_t inner, int64_t outputs,
                    bool bfloat16, const Widen& widen, float* y) {
    const uint16_t* x_rounded = bfloat16 ? rounded(kernels, x, rows, inner) : nullptr;
    const int64_t panels = (outputs + kPanelWidth - 1) / kPanelWidth;
    std::atomic<int64_t> next{0};
    parallel([&](int, int) {
        uint8_t* memory = scratch(Scratch::kTile, kPanelBytes + kPairBytes + kTailBytes);
        auto* panel = reinterpret_cast<float*>(memory);
        auto* pairs = reinterpret_cast<uint32_t*>(memory + kPanelBytes);
        auto* tail = reinterpret_cast<float*>(memory + kPanelBytes + kPairBytes);
        for (;;) {
            const int64_t output = next.fetch_add(1, std::memory_order_relaxed) * kPanelWidth;
            if (output >= panels * kPanelWidth) break;
            const int64_t width = std::min(kPanelWidth, outputs - output);
            const bool whole = width == kPanelWidth;
            float* out = whole ? y + output : tail;
            const int64_t out_stride = whole ? outputs : kPanelWidth;
            for (int64_t begin = 0; begin < inner; begin += kPanelDepth) {
                const int64_t depth = std::min(kPanelDepth, inner - begin), even = round_up(depth, 2);
                widen(output, width, begin, depth, panel);
                if (!bfloat16) {
                    kernels.multiply_panel(x + begin, inner, rows, panel, depth, out, out_stride, begin > 0);
                    continue;
                }
                if (even > depth) std::fill_n(panel + depth * kPanelWidth, kPanelWidth, 0.0f);
                kernels.pair_panel(panel, even, pairs);
                kernels.multiply_panel_bfloat16(x_rounded + begin, round_up(inner, 2), rows, pairs, even, out,
                                                out_stride, begin > 0);
            }
            for (int64_t m = 0; m < rows && !whole; m++)
                std::copy_n(out + m * kPanelWidth, width, y + m * outputs + output);
        }
    });
}

template <class Widen>
void multiply(const float* x, int64_t rows, int64_t inner, int64_t outputs, Arithmetic arithmetic,
              const Widen& widen, float* y) {
    const FloatKernels& table = kernels().floats;
    const bool bfloat16 = arithmetic == Arithmetic::kBfloat16 && table.multiply_panel_bfloat16 != nullptr;
    if (inner == 0) std::fill_n(y, rows * outputs, 0.0f);
    for (int64_t m = 0; m < rows; m += kRowChunk)
        multiply_chunk(table, x + m * inner, std::min(kRowChunk, rows - m), inner, outputs, bfloat16, widen,
                       y + m * outputs);
}

// multiply(first row of x, rows, first weight row, last) for tiles of x, all with some weight rows before the
// next ones, which then stay in the second-level cache.
template <class Multiply>
void by_tiles(int64_t rows, int64_t begin, int64_t end, int64_t step, const Multiply& multiply) {
    if (rows <= kFewRows) return multiply(0, rows, begin, end);
    for (; begin < end; begin += step)
        for (int64_t m = 0; m < rows; m += kFewRows)
            multiply(m, std::min(kFewRows, rows - m), begin, std::min(begin + step, end));
}

}  // namespace

void float_matmul(const float* x, int64_t rows, const QuantizedMatrix& weight, Arithmetic arithmetic,
                  float* y) {
    const FloatKernels& table = kernels().floats;
    if (rows == 0) return;
    if (rows > kTiledRows) {
        const auto widen = [&](int64_t row, int64_t width, int64_t column, int64_t depth, float* panel) {
            table.widen_quantized(weight, {row, column, width, depth}, panel);
        };
        return multiply(x, rows, weight.columns, weight.rows, arithmetic, widen, y);
    }
    // Rows behind the last whole block have no bfloat16 kernel.
    const bool bfloat16 = arithmetic == Arithmetic::kBfloat16 && table.quantized_few_rows_bfloat16 != nullptr;
    const int64_t packed = bfloat16 ? weight.blocks() : 0;
    if (packed > 0) {
        const auto* x_rounded = few_rows_rounded(table, x, rows, weight.columns);
        parallel_for(packed, 2, [&](int64_t begin, int64_t end) {
            by_tiles(rows, begin, end, 1, [&](int64_t m, int64_t count, int64_t first, int64_t last) {
                table.quantized_few_rows_bfloat16(x_rounded + m * weight.columns, count, weight, first, last,
                                                  y + m * weight.rows, weight.rows);
            });
        });
    }
    const int64_t done = packed * kBlockRows;
    parallel_for(weight.rows - done, 2 * kBlockRows, [&](int64_t begin, int64_t end) {
        by_tiles(rows, done + begin, done + end, kBlockRows,
                 [&](int64_t m, int64_t count, int64_t first, int64_t last) {
                     table.quantized_few_rows(x + m * weight.columns, count, weight, first, last,
                                              y + m * weight.rows, weight.rows);
                 });
    });
}

void float_matmul(const float* x, int64_t rows, const FloatMatrix& weight, Arithmetic arithmetic, float* y) {
    const FloatKernels& table = kernels().floats;
    if (rows == 0) return;
    if (rows > kTiledRows) {
        const auto widen = [&](int64_t row, int64_t width, int64_t column, int64_t depth, float* panel) {
            table.widen_float(weight, {row, column, width, depth}, panel);
        };
        return multiply(x, rows, weight.columns, weight.rows, arithmetic, widen, y);
    }
    parallel_for(weight.rows, 2 * kBlockRows, [&](int64_t begin, int64_t end) {
        by_tiles(rows, begin, end, kWeightRows, [&](int64_t m, int64_t count, int64_t first, int64_t last) {
            table.float_few_rows(x + m * weight.columns, count, weight, first, last, y + m * weight.rows,
                                 weight.rows);
        });
    });
}

void float_matmul_transposed(const float* dy, int64_t rows, const QuantizedMatrix& weight,
                             Arithmetic arithmetic, float* dx) {
    const FloatKernels& table = kernels().floats;
    const auto widen = [&](int64_t column, int64_t width, int64_t row, int64_t depth, float* panel) {
        table.widen_quantized_transposed(weight, {row, column, depth, width}, panel);
    };
    multiply(dy, rows, weight.rows, weight.columns, arithmetic, widen, dx);
}

void float_matmul_transposed(const float* dy, int64_t rows, const FloatMatrix& weight, Arithmetic arithmetic,
                             float* dx) {
    const FloatKernels& table = kernels().floats;
    const auto widen = [&](int64_t column, int64_t width, int64_t row, int64_t depth, float* panel) {
        table.widen_float_transposed(weight, {row, column, depth, width}, panel);
    };
    multiply(dy, rows, weight.rows, weight.columns, arithmetic, widen, dx);
}

Arithmetic parse_float_arithmetic(const char* name, FloatType type) {
    const char* set = std::getenv("PADDLE_GLM_ARITHMETIC");
    const bool unset = set == nullptr || *set == 0 || std::strcmp(set, "auto") == 0;
    if (std::strcmp(name, "auto") == 0 && unset)
        return type == FloatType::kBfloat16 ? Arithmetic::kBfloat16 : Arithmetic::kFloat32;
    const Arithmetic asked = parse_arithmetic(name);
    return asked == Arithmetic::kInt8 ? Arithmetic::kBfloat16 : asked;
}

}  // namespace paddle_glm
