// Products in int8: activations are rounded per row and part of the inputs, weights keep their 4 or 8 bits.
//
// A part is a group of the weight; groups longer than 128 inputs are cut into parts of 128, the last one of
// a group shorter. For a row and part: scale = max|x| / 127, value = round(x * (127 / max|x|)), ties to even.
// A part whose max|x| is below 2^-119 counts as zeros; one with infinity or NaN has scale NaN, so its whole
// row of the result is NaN.
//   y[m][n] = sum over parts: scale[m] * weight_scale[n] * (sum of value * stored weight + correction[m])
// The inner sum is an exact int32, the outer one runs over the parts in order in float32, so a row's result
// does not depend on the rows beside it.
#pragma once

#include "layout.h"

namespace paddle_glm {

constexpr int64_t kPartInputs = 128;
constexpr float kSmallestActivation = 0x1p-119f;

// The parts of a weight's inputs.
struct Parts {
    int64_t group_size;  // inputs of a group of the weight
    int64_t size;        // inputs of a part but the last one of a group
    int64_t per_group;
    int64_t count;

    explicit Parts(const QuantizedMatrix& weight)
        : group_size(weight.group_size),
          size(group_size < kPartInputs ? group_size : kPartInputs),
          per_group((group_size + size - 1) / size),
          count(weight.groups() * per_group) {}

    // The first input of a part, and how many it has.
    int64_t begin(int64_t part) const { return part / per_group * group_size + part % per_group * size; }
    int64_t length(int64_t part) const {
        const int64_t rest = group_size - part % per_group * size;
        return rest < size ? rest : size;
    }
};

// Rows of x in tiles of equal height, or one row apart, of at most `height` rows.
struct Tiles {
    int64_t rows, count;

    Tiles(int64_t rows, int64_t height) : rows(rows), count((rows + height - 1) / height) {}

    int64_t begin(int64_t i) const { return rows * i / count; }
    int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
};

// Activations of `rows` rows in int8.
struct Int8Activations {
    int64_t rows;
    int64_t stride;  // bytes of a row of a part: `Parts::size`
    int8_t* values;  // [parts][rows][stride]; behind a shorter part: undefined
    float* scales;   // [parts][rows]
    int32_t*
        corrections;  // [parts][rows]: -(8 or 128) * sum of values, since stored weights have that offset

    const int8_t* part_values(int64_t part) const { return values + part * rows * stride; }
};

// y = x weight^T. x: float32 [rows, columns]; y: float32 [rows, weight.rows].
void matmul_int8(const float* x, int64_t rows, const QuantizedMatrix& weight, float* y);

}  // namespace paddle_glm
