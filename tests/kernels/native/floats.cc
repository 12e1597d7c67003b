// Products of float16, bfloat16 and float32 weights, against float64.
#include <cfloat>
#include <cmath>
#include <vector>

#include "check.h"
#include "float_matmul.h"

namespace paddle_glm_test {
namespace {

using paddle_glm::Arithmetic;
using paddle_glm::FloatMatrix;
using paddle_glm::FloatType;

struct Case {
    int64_t rows, outputs, inputs;
    FloatType type;
    Arithmetic arithmetic;
};

// Any finite number: normal ones of about 1, and with `subnormal` the smallest ones.
uint16_t make_half(FloatType type, bool subnormal, Random& random) {
    const uint32_t sign = random.bits() & 0x8000, fraction = random.bits();
    if (type == FloatType::kFloat16)
        return sign | (subnormal ? 0 : 14 + random.integer(0, 1)) << 10 | (fraction & 1023);
    return sign | (126 + random.integer(0, 1)) << 7 | (fraction & 127);
}

// y = x matrix; at(k, n) is the matrix in float64.
template <class At>
void check_product(const Case& one, int64_t inner, int64_t outer, const Buffer<float>& x,
                   const Buffer<float>& y, const char* what, const At& at) {
    for (int64_t m = 0; m < one.rows; m++)
        for (int64_t n = 0; n < outer; n++) {
            double expected = 0, sum = 0;
            for (int64_t k = 0; k < inner; k++) {
                const double product = x[m * inner + k] * at(k, n);
                expected += product;
                sum += std::abs(product);
            }
            double allowed = FLT_EPSILON * (16 + inner / 8.0) * sum + 1e-37;
            if (one.arithmetic == Arithmetic::kBfloat16) allowed += 1.01 / 128 * sum;
            check_close(y[m * outer + n], expected, allowed, what, m, n);
        }
}

void check_case(const Case& one, bool subnormal, Random& random) {
    const char* const names[] = {"float16", "bfloat16", "float32"};
    set_case("%s [%lld, %lld] x [%lld, %lld], arithmetic %d", names[static_cast<int>(one.type)],
             static_cast<long long>(one.rows), static_cast<long long>(one.inputs),
             static_cast<long long>(one.outputs), static_cast<long long>(one.inputs),
             static_cast<int>(one.arithmetic));
    const int64_t count = one.outputs * one.inputs;
    const bool wide = one.type == FloatType::kFloat32;
    Buffer<uint16_t> halves(wide ? 0 : count);
    Buffer<float> floats(wide ? count : 0);
    std::vector<double> dense(count);
    for (int64_t i = 0; i < count; i++)
        if (wide)
            dense[i] = floats[i] = random.normal() * (subnormal ? 1e-40f : 1.0f);
        else
            dense[i] = paddle_glm::to_float(halves[i] = make_half(one.type, subnormal, random), one.type);
    const void* values = wide ? static_cast<const void*>(floats.data()) : halves.data();
    const FloatMatrix weight{values, one.outputs, one.inputs, one.type};
    Buffer<float> x(one.rows * one.inputs), y(one.rows * one.outputs), dx(x.size());
    for (int64_t i = 0; i < x.size(); i++) x[i] = random.normal();
    paddle_glm::float_matmul(x.data(), one.rows, weight, one.arithmetic, y.data());
    check_product(one, one.inputs, one.outputs, x, y, "y",
                  [&](int64_t k, int64_t n) { return dense[n * one.inputs + k]; });
    for (int64_t i = 0; i < y.size(); i++) y[i] = random.normal();
    paddle_glm::float_matmul_transposed(y.data(), one.rows, weight, one.arithmetic, dx.data());
    check_product(one, one.outputs, one.inputs, y, dx, "dx",
                  [&](int64_t n, int64_t k) { return dense[n * one.inputs + k]; });
}

}  // namespace

void test_floats() {
    Random random(2);
    for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 12, 17, 33, 70})
        for (auto type : {FloatType::kFloat16, FloatType::kBfloat16, FloatType::kFloat32})
            for (auto arithmetic : {Arithmetic::kFloat32, Arithmetic::kBfloat16})
                for (int i = 0; i < 3; i++) {
                    const Case one{rows, random.integer(1, 150), random.integer(1, 150), type, arithmetic};
                    check_case(one, i == 0, random);
                }
    // Sums deeper than a panel, and more rows than one pass takes.
    for (auto arithmetic : {Arithmetic::kFloat32, Arithmetic::kBfloat16}) {
        check_case({6, 5, 1100, FloatType::kFloat16, arithmetic}, false, random);
        check_case({6, 1100, 5, FloatType::kBfloat16, arithmetic}, false, random);
        check_case({260, 3, 7, FloatType::kFloat16, arithmetic}, false, random);
    }
}

}  // namespace paddle_glm_test
