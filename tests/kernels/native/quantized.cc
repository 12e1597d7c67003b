// Kernel order and products of quantised weights, against float64.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "check.h"
#include "float_matmul.h"
#include "layout.h"
#include "matmul.h"

namespace paddle_glm_test {
namespace {

using paddle_glm::Arithmetic;
using paddle_glm::QuantizedMatrix;

enum class Weights { kRandom, kMinimum, kMaximum, kAlternating };
enum class Inputs {
    kRandom,
    kIntegers,  // a power of two per row and group times integers up to 127: exact in every arithmetic
    kExtremes,  // integers -127 and 127 alone: the largest sums
    kZero,
    kHuge,  // 1e30
    kTiny,  // 1e-40, denormal
};

struct Shape {
    int64_t rows, outputs, inputs, group;  // group 0: one scale per output
    int bits;
    int64_t groups() const { return group ? inputs / group : 1; }
    int64_t group_size() const { return group ? group : inputs; }
    // Inputs that share a scale of the int8 arithmetic.
    int64_t input_group() const { return group ? group : 128; }
};

struct Weight {
    Buffer<uint8_t> hub, values;
    Buffer<float> hub_scales, scales;
    std::vector<double> dense;  // [outputs, inputs]

    QuantizedMatrix matrix(const Shape& shape) const {
        return {values.data(), scales.data(), shape.outputs, shape.inputs, shape.group_size(), shape.bits};
    }
};

int weight_value(Weights kind, int bits, int64_t i, Random& random) {
    const int low = bits == 4 ? -8 : -128, high = -low - 1;
    switch (kind) {
        case Weights::kMinimum:
            return low;
        case Weights::kMaximum:
            return high;
        case Weights::kAlternating:
            return i % 2 ? low : high;
        case Weights::kRandom:
            break;
    }
    return random.integer(low, high);
}

Weight make_weight(const Shape& shape, Weights kind, Random& random) {
    const int64_t row_bytes = shape.inputs * shape.bits / 8, groups = shape.groups();
    Buffer<uint8_t> hub(shape.outputs * row_bytes);
    Buffer<float> scales(shape.outputs * groups);
    std::vector<double> dense(shape.outputs * shape.inputs);
    for (int64_t i = 0; i < scales.size(); i++)
        scales[i] = kind == Weights::kRandom ? 0.01f + std::abs(random.normal()) * 0.01f
                                             : std::ldexp(1.0f, static_cast<int>(i % 3) - 8);
    for (int64_t i = 0; i < hub.size(); i++) hub[i] = 0;
    for (int64_t n = 0; n < shape.outputs; n++)
        for (int64_t k = 0; k < shape.inputs; k++) {
            const int value = weight_value(kind, shape.bits, n + k, random);
            uint8_t& byte = hub[n * row_bytes + k * shape.bits / 8];
            if (shape.bits == 8)
                byte = static_cast<uint8_t>(value);
            else  // two values in a byte, the first in its high half
                byte = static_cast<uint8_t>(byte | (value & 15) << (k % 2 ? 0 : 4));
            dense[n * shape.inputs + k] = value * double(scales[n * groups + k / shape.group_size()]);
        }
    Weight weight{hub, hub, scales, scales, std::move(dense)};
    paddle_glm::pack(weight.values.data(), weight.scales.data(), shape.outputs, shape.inputs,
                     shape.group_size(), shape.bits);
    return weight;
}

void fill_inputs(Buffer<float>& x, const Shape& shape, Inputs kind, Random& random) {
    for (int64_t i = 0; i < x.size(); i++) {
        const int64_t row = i / shape.inputs, column = i % shape.inputs, group = column / shape.input_group();
        const float sign = random.integer(0, 1) ? 1.0f : -1.0f;
        switch (kind) {
            case Inputs::kRandom:
                x[i] = random.normal();
                break;
            case Inputs::kIntegers:  // with 127 somewhere in every group
                x[i] = static_cast<float>(column % 4 == row % 4 ? 127 : random.integer(-127, 127));
                x[i] = std::ldexp(x[i], static_cast<int>((row + 5 * group) % 7) - 3);
                break;
            case Inputs::kExtremes:
                x[i] = row % 2 ? 127.0f : 127.0f * sign;
                break;
            case Inputs::kZero:
                x[i] = 0;
                break;
            case Inputs::kHuge:
                x[i] = 1e30f * random.normal();
                break;
            case Inputs::kTiny:
                x[i] = 1e-40f * random.normal();
                break;
        }
    }
}

// Largest error of one output: of `arithmetic` on inputs that are not exact in it, and of float32 sums.
double tolerance(Arithmetic arithmetic, bool exact, const Shape& shape, double sum, double weight_sum,
                 double largest) {
    double result = FLT_EPSILON * (16 + shape.inputs / 8.0) * sum + 1e-37;
    if (exact) return result;
    if (arithmetic == Arithmetic::kInt8)
        result += std::max(0.502 / 127 * largest, double(paddle_glm::kSmallestActivation)) * weight_sum;
    if (arithmetic == Arithmetic::kBfloat16) result += 1.01 / 128 * sum + FLT_MIN * weight_sum;
    return result;
}

// What float64 gives for one product, and what the tolerances start from.
struct Reference {
    std::vector<double> y, sum;      // [rows, outputs]: of products, of their absolute values
    std::vector<double> weight_sum;  // [outputs]
    std::vector<double> largest;     // [rows]

    Reference(const Shape& shape, const Weight& weight, const Buffer<float>& x)
        : y(shape.rows * shape.outputs), sum(y.size()), weight_sum(shape.outputs), largest(shape.rows) {
        for (int64_t i = 0; i < x.size(); i++) {
            double& found = largest[i / shape.inputs];
            found = std::max(found, std::abs(double(x[i])));
        }
        for (int64_t n = 0; n < shape.outputs; n++) {
            const double* w = &weight.dense[n * shape.inputs];
            for (int64_t k = 0; k < shape.inputs; k++) weight_sum[n] += std::abs(w[k]);
            for (int64_t m = 0; m < shape.rows; m++) {
                const float* row = x.data() + m * shape.inputs;
                for (int64_t k = 0; k < shape.inputs; k++) {
                    y[m * shape.outputs + n] += row[k] * w[k];
                    sum[m * shape.outputs + n] += std::abs(row[k] * w[k]);
                }
            }
        }
    }
};

void check_product(const Shape& shape, const Weight& weight, const Buffer<float>& x, Arithmetic arithmetic,
                   const Reference& reference, bool exact) {
    Buffer<float> y(shape.rows * shape.outputs), again(y.size());
    paddle_glm::quantized_matmul(x.data(), shape.rows, weight.matrix(shape), arithmetic, y.data());
    for (int64_t i = 0; i < y.size(); i++) {
        const int64_t m = i / shape.outputs, n = i % shape.outputs;
        const double allowed = tolerance(arithmetic, exact, shape, reference.sum[i], reference.weight_sum[n],
                                         reference.largest[m]);
        check_close(y[i], reference.y[i], allowed, "y", m, n);
    }
    paddle_glm::quantized_matmul(x.data(), shape.rows, weight.matrix(shape), arithmetic, again.data());
    check(again == y, "the second call gave other bits");
}

void check_input_grad(const Shape& shape, const Weight& weight, Arithmetic arithmetic, Random& random) {
    Buffer<float> dy(shape.rows * shape.outputs), dx(shape.rows * shape.inputs);
    for (int64_t i = 0; i < dy.size(); i++) dy[i] = random.normal();
    paddle_glm::float_matmul_transposed(dy.data(), shape.rows, weight.matrix(shape), arithmetic, dx.data());
    for (int64_t m = 0; m < shape.rows; m++)
        for (int64_t k = 0; k < shape.inputs; k++) {
            double expected = 0, sum = 0;
            for (int64_t n = 0; n < shape.outputs; n++) {
                const double product = dy[m * shape.outputs + n] * weight.dense[n * shape.inputs + k];
                expected += product;
                sum += std::abs(product);
            }
            double allowed = FLT_EPSILON * (16 + shape.outputs / 8.0) * sum + 1e-37;
            if (arithmetic == Arithmetic::kBfloat16) allowed += 1.01 / 128 * sum;
            check_close(dx[m * shape.inputs + k], expected, allowed, "dx", m, k);
        }
}

// Infinity and NaN reach all outputs of their row, and of no other.
void check_not_finite(const Shape& shape, const Weight& weight, Arithmetic arithmetic, Random& random) {
    Buffer<float> x(shape.rows * shape.inputs), y(shape.rows * shape.outputs);
    fill_inputs(x, shape, Inputs::kRandom, random);
    const int64_t bad = random.integer(0, static_cast<int>(shape.rows) - 1);
    x[bad * shape.inputs + random.integer(0, static_cast<int>(shape.inputs) - 1)] =
        random.integer(0, 1) ? NAN : -INFINITY;
    paddle_glm::quantized_matmul(x.data(), shape.rows, weight.matrix(shape), arithmetic, y.data());
    for (int64_t i = 0; i < y.size(); i++) {
        const bool finite = std::isfinite(y[i]), expected = i / shape.outputs != bad;
        check(finite == expected, "y[%lld] of a row with infinity or NaN at row %lld is %g",
              static_cast<long long>(i), static_cast<long long>(bad), y[i]);
    }
}

void check_layout(const Shape& shape, const Weight& weight) {
    Buffer<float> row(shape.inputs);
    for (int64_t n = 0; n < shape.outputs; n++) {
        paddle_glm::dequantize(weight.matrix(shape), n, 0, shape.inputs, row.data());
        for (int64_t k = 0; k < shape.inputs; k++)
            check_close(row[k], static_cast<float>(weight.dense[n * shape.inputs + k]), 0, "weight", n, k);
    }
    Weight copy = weight;
    paddle_glm::unpack(copy.values.data(), copy.scales.data(), shape.outputs, shape.inputs,
                       shape.group_size(), shape.bits);
    check(copy.values == weight.hub && copy.scales == weight.hub_scales, "unpack is not the inverse of pack");
}

const char* name(Arithmetic arithmetic) {
    return arithmetic == Arithmetic::kInt8       ? "int8"
           : arithmetic == Arithmetic::kBfloat16 ? "bfloat16"
                                                 : "float32";
}

void check_shape(const Shape& shape, Weights weights, Inputs inputs, Random& random) {
    const Weight weight = make_weight(shape, weights, random);
    Buffer<float> x(shape.rows * shape.inputs);
    fill_inputs(x, shape, inputs, random);
    const Reference reference(shape, weight, x);
    const bool exact = inputs == Inputs::kIntegers || inputs == Inputs::kExtremes || inputs == Inputs::kZero;
    for (auto arithmetic : {Arithmetic::kFloat32, Arithmetic::kInt8, Arithmetic::kBfloat16}) {
        set_case("int%d [%lld, %lld] x [%lld, %lld], groups of %lld, weights %d, inputs %d, %s", shape.bits,
                 static_cast<long long>(shape.rows), static_cast<long long>(shape.inputs),
                 static_cast<long long>(shape.outputs), static_cast<long long>(shape.inputs),
                 static_cast<long long>(shape.group), static_cast<int>(weights), static_cast<int>(inputs),
                 name(arithmetic));
        // A random scale has more digits than bfloat16.
        const bool exact_weight = arithmetic != Arithmetic::kBfloat16 || weights != Weights::kRandom;
        check_product(shape, weight, x, arithmetic, reference, exact && exact_weight);
        check_not_finite(shape, weight, arithmetic, random);
        if (arithmetic != Arithmetic::kInt8) check_input_grad(shape, weight, arithmetic, random);
    }
    check_layout(shape, weight);
}

}  // namespace

void test_quantized() {
    Random random(1);
    const int64_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 24, 31, 33, 64, 67};
    const int64_t outputs[] = {1, 31, 32, 33, 64, 65, 95, 96, 160};
    const int64_t groups[] = {8, 16, 24, 32, 40, 64, 128};
    const int64_t lines[] = {8,   16,  24,  40,  64, 72,
                             120, 128, 136, 192, 264};  // inputs of one scale per output
    int round = 0;
    for (int64_t rows : row_counts)
        for (int bits : {4, 8})
            for (bool grouped : {true, false}) {
                Shape shape{rows, outputs[random.integer(0, 8)], 0, 0, bits};
                if (grouped) shape.group = groups[random.integer(0, 6)];
                shape.inputs = grouped ? shape.group * random.integer(1, 4) : lines[random.integer(0, 10)];
                check_shape(shape, static_cast<Weights>(round % 4), static_cast<Inputs>(round % 6), random);
                check_shape(shape, Weights::kRandom, Inputs::kIntegers, random);
                round++;
            }
    // The largest sums: 16 bits overflow, 32 bits must not.
    for (int bits : {4, 8})
        for (int64_t rows : {1, 5, 18})
            for (auto kind : {Weights::kMinimum, Weights::kMaximum, Weights::kAlternating}) {
                check_shape({rows, 34, 768, 0, bits}, kind, Inputs::kExtremes, random);
                check_shape({rows, 34, 768, 384, bits}, kind, Inputs::kExtremes, random);
            }
    // 8 bits have groups of 4 inputs.
    for (int64_t rows : {1, 6, 19})
        check_shape({rows, 70, 36, 4, 8}, Weights::kRandom, Inputs::kIntegers, random);
}

}  // namespace paddle_glm_test
