#include <cmath>
#include <cstring>

#include "int8_matmul.h"
#include "kernels.h"

namespace paddle_glm {
namespace {

// max|x|, and infinity for what is not finite.
float largest(const float* x, int64_t count) {
    uint32_t most = 0;  // bits of |x| are in the order of |x|, NaN above all
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float value;
    std::memcpy(&value, &most, sizeof value);
    return most < 0x7f800000 ? value : INFINITY;
}

float quantize_part(const float* x, int64_t count, int8_t* values, int32_t* sum) {
    const float most = largest(x, count);
    *sum = 0;
    if (most < kSmallestActivation || std::isinf(most)) {
        std::memset(values, 0, count);
        return std::isinf(most) ? NAN : 0.0f;
    }
    const float factor = 127.0f / most;
    for (int64_t i = 0; i < count; i++) {
        values[i] = static_cast<int8_t>(std::lrintf(x[i] * factor));
        *sum += values[i];
    }
    return most / 127.0f;
}

// sums[r] += values of one row times a part of a block of weights.
void add_products(const uint8_t* lines, int bits, const int8_t* x, int64_t count, int32_t* sums) {
    const int n = bits == 4 ? 8 : 4;
    for (int64_t i = 0; i < count; i += n, x += n)
        for (int64_t r = 0; r < kBlockRows; r++, lines += 4)
            for (int t = 0; t < 4; t++)
                sums[r] += bits == 4 ? x[t] * (lines[t] & 15) + x[4 + t] * (lines[t] >> 4) : x[t] * lines[t];
}

void matmul_int8(const Int8Activations& x, const QuantizedMatrix& weight, int64_t block_begin,
                 int64_t block_end, float* y) {
    const Parts parts(weight);
    for (int64_t block = block_begin; block < block_end; block++)
        for (int64_t m = 0; m < x.rows; m++) {
            float* out = y + m * weight.rows + block * kBlockRows;
            for (int64_t r = 0; r < kBlockRows; r++) out[r] = 0;
            for (int64_t part = 0; part < parts.count; part++) {
                int32_t sums[kBlockRows];
                for (int32_t& sum : sums) sum = x.corrections[part * x.rows + m];
                add_products(weight.block_values(block) + kBlockRows * (parts.begin(part) * weight.bits / 8),
                             weight.bits, x.part_values(part) + m * x.stride, parts.length(part), sums);
                const float* scales = weight.block_scales(block) + part / parts.per_group * kBlockRows;
                for (int64_t r = 0; r < kBlockRows; r++)
                    out[r] += static_cast<float>(sums[r]) * (x.scales[part * x.rows + m] * scales[r]);
            }
        }
}

}  // namespace

void fill_int8_portable(KernelTable& table) {
    table.quantize_part = quantize_part;
    table.matmul_int8 = matmul_int8;
}

}  // namespace paddle_glm
