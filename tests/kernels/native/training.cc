// A training step's operators and their gradients, against float64.
#include "training.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"

namespace paddle_glm_test {
namespace {

Buffer<float> normal(int64_t size, Random& random, float scale = 1) {
    Buffer<float> values(size);
    for (int64_t i = 0; i < size; i++) values[i] = scale * random.normal();
    return values;
}

void check_norm(int64_t rows, int64_t size, Random& random) {
    set_case("rms_norm_training [%lld, %lld]", static_cast<long long>(rows), static_cast<long long>(size));
    const Buffer<float> x = normal(rows * size, random, 3), weight = normal(size, random);
    const Buffer<float> dy = normal(rows * size, random);
    Buffer<float> y(rows * size), factor(rows), dx(rows * size), dweight(size);
    paddle_glm::rms_norm_training(x.data(), weight.data(), rows, size, 1e-5f, y.data(), factor.data());
    paddle_glm::rms_norm_training_grad(x.data(), weight.data(), factor.data(), dy.data(), rows, size,
                                       dx.data(), dweight.data());
    std::vector<double> sums(size, 0.0);
    for (int64_t m = 0; m < rows; m++) {
        double squares = 0, dot = 0;
        for (int64_t i = 0; i < size; i++) {
            const int64_t at = m * size + i;
            squares += double(x[at]) * x[at];
            dot += double(dy[at]) * weight[i] * x[at];
        }
        const double scale = 1 / std::sqrt(squares / size + 1e-5);
        check_close(factor[m], scale, 1e-5 * scale, "factor", m, 0);
        for (int64_t i = 0; i < size; i++) {
            const int64_t at = m * size + i;
            sums[i] += dy[at] * x[at] * scale;
            check_close(y[at], x[at] * scale * weight[i], 1e-5, "y", m, i);
            const double slope = scale * (dy[at] * weight[i] - x[at] * dot * scale * scale / size);
            check_close(dx[at], slope, 2e-5 * (1 + std::abs(slope)), "dx", m, i);
        }
    }
    for (int64_t i = 0; i < size; i++) check_close(dweight[i], sums[i], 1e-4, "dweight", 0, i);
}

void check_swiglu(int64_t rows, int64_t size, float scale, Random& random) {
    set_case("swiglu_training [%lld, %lld] of about %g", static_cast<long long>(rows),
             static_cast<long long>(size), scale);
    const Buffer<float> x = normal(rows * 2 * size, random, scale), dy = normal(rows * size, random);
    Buffer<float> y(rows * size), dx(rows * 2 * size);
    paddle_glm::swiglu_training(x.data(), rows, size, y.data());
    paddle_glm::swiglu_training_grad(x.data(), dy.data(), rows, size, dx.data());
    for (int64_t i = 0; i < y.size(); i++) {
        const int64_t m = i / size, at = m * 2 * size + i % size;
        const double gate = x[at], up = x[at + size], sigmoid = 1 / (1 + std::exp(-gate));
        const double tolerance = 1e-5 * (1 + std::abs(gate)) * (1 + std::abs(up)) * (1 + std::abs(dy[i]));
        check_close(y[i], gate * sigmoid * up, tolerance, "y", m, i % size);
        check_close(dx[at + size], dy[i] * gate * sigmoid, tolerance, "dup", m, i % size);
        const double slope = dy[i] * up * sigmoid * (1 + gate * (1 - sigmoid));
        check_close(dx[at], slope, tolerance, "dgate", m, i % size);
    }
}

void check_rotary(const paddle_glm::Projection& sizes, Random& random) {
    set_case("split_rotary %lld heads of %lld", static_cast<long long>(sizes.heads),
             static_cast<long long>(sizes.head_dim));
    const int64_t rows = sizes.batch * sizes.tokens;
    const Buffer<float> qkv = normal(rows * sizes.width(), random);
    Buffer<float> cos(rows * sizes.half), sin(rows * sizes.half);
    for (int64_t i = 0; i < cos.size(); i++) {
        const float angle = random.normal();
        cos[i] = std::cos(angle), sin[i] = std::sin(angle);
    }
    Buffer<float> query(rows * sizes.heads * sizes.head_dim), key(rows * sizes.kv_heads * sizes.head_dim);
    Buffer<float> value(key.size()), back(qkv.size());
    paddle_glm::split_rotary(sizes, qkv.data(), cos.data(), sin.data(), query.data(), key.data(),
                             value.data());
    // A rotation's transpose is its inverse.
    paddle_glm::split_rotary_grad(sizes, query.data(), key.data(), value.data(), cos.data(), sin.data(),
                                  back.data());
    for (int64_t i = 0; i < qkv.size(); i++) {
        const bool is_query = i % sizes.width() < sizes.heads * sizes.head_dim;
        const double expected = is_query ? qkv[i] * sizes.scale * sizes.scale : qkv[i];
        check_close(back[i], expected, 1e-5, "qkv", i / sizes.width(), i % sizes.width());
    }
}

void check_softmax(int64_t tokens, int64_t total, Random& random) {
    set_case("masked_softmax [%lld, %lld]", static_cast<long long>(tokens), static_cast<long long>(total));
    const int64_t batch = 2, heads = 3, rows = batch * heads * tokens;
    const Buffer<float> scores = normal(rows * total, random, 5), dy = normal(rows * total, random);
    Buffer<float> mask(batch * tokens * total), y(rows * total), dx(rows * total);
    for (int64_t i = 0; i < mask.size(); i++) mask[i] = i % total && random.integer(0, 2) == 0 ? -1e9f : 0;
    paddle_glm::masked_softmax(scores.data(), mask.data(), batch, heads, tokens, total, true, y.data());
    paddle_glm::masked_softmax_grad(y.data(), dy.data(), rows, total, dx.data());
    for (int64_t m = 0; m < rows; m++) {
        const float* own = mask.data() + (m / (heads * tokens) * tokens + m % tokens) * total;
        double sum = 0, dot = 0;
        for (int64_t i = 0; i < total; i++) {
            const int64_t at = m * total + i;
            if (own[i] == 0) sum += std::exp(double(scores[at]));
            dot += double(y[at]) * dy[at];
        }
        for (int64_t i = 0; i < total; i++) {
            const int64_t at = m * total + i;
            check_close(y[at], own[i] == 0 ? std::exp(double(scores[at])) / sum : 0, 1e-6, "y", m, i);
            check_close(dx[at], y[at] * (dy[at] - dot), 1e-5, "dx", m, i);
        }
    }
}

void check_cross_entropy(int64_t rows, int64_t size, Random& random) {
    set_case("cross entropy [%lld, %lld]", static_cast<long long>(rows), static_cast<long long>(size));
    const int64_t first = 7;
    const Buffer<float> logits = normal(rows * size, random, 9);
    Buffer<int64_t> labels(rows);
    Buffer<float> maximum(rows), sum(rows), target(rows), logsumexp(rows), scale(rows), slope(rows * size);
    for (int64_t m = 0; m < rows; m++) labels[m] = m == 0 ? -100 : random.integer(0, int(size) + 20);
    paddle_glm::softmax_statistics(logits.data(), labels.data(), rows, size, first, maximum.data(),
                                   sum.data(), target.data());
    for (int64_t m = 0; m < rows; m++) {
        logsumexp[m] = maximum[m] + std::log(sum[m]);
        scale[m] = m == 0 ? 0 : random.normal();
    }
    paddle_glm::cross_entropy_grad(logits.data(), labels.data(), logsumexp.data(), scale.data(), rows, size,
                                   first, slope.data());
    for (int64_t m = 0; m < rows; m++) {
        double total = 0;
        for (int64_t i = 0; i < size; i++) total += std::exp(double(logits[m * size + i]));
        check_close(logsumexp[m], std::log(total), 1e-5, "logsumexp", m, 0);
        const int64_t label = labels[m] - first;
        const bool own = label >= 0 && label < size;
        check_close(target[m], own ? logits[m * size + label] : 0, 0, "target", m, 0);
        for (int64_t i = 0; i < size; i++) {
            const double share = std::exp(double(logits[m * size + i])) / total;
            const double expected = scale[m] * (share - (own && i == label ? 1 : 0));
            check_close(slope[m * size + i], expected, 1e-5, "slope", m, i);
        }
    }
}

void check_optimizer(int64_t size, Random& random) {
    set_case("adamw %lld", static_cast<long long>(size));
    const Buffer<float> gradient = normal(size, random), before = normal(size, random);
    Buffer<float> parameter(before), moment1 = normal(size, random), moment2(size);
    for (int64_t i = 0; i < size; i++) moment2[i] = std::abs(random.normal());
    const Buffer<float> first(moment1), second(moment2);
    const paddle_glm::AdamW step{0.01f, 0.9f, 0.95f, 1e-8f, 0.999f, 0.5f};
    paddle_glm::adamw_step(step, gradient.data(), size, parameter.data(), moment1.data(), moment2.data());
    double squares = 0;
    for (int64_t i = 0; i < size; i++) {
        squares += double(gradient[i]) * gradient[i];
        const double g = gradient[i] * 0.5, m1 = 0.9 * first[i] + 0.1 * g, m2 = 0.95 * second[i] + 0.05 * g * g;
        check_close(moment1[i], m1, 1e-6, "moment1", 0, i);
        check_close(moment2[i], m2, 1e-6, "moment2", 0, i);
        const double change = 0.01 * m1 / (std::sqrt(m2) + 1e-8);
        check_close(parameter[i], before[i] * 0.999 - change, 1e-5 * (1 + std::abs(change)), "parameter", 0, i);
    }
    check_close(paddle_glm::squared_norm(gradient.data(), size), squares, 1e-6 * squares, "norm", 0, 0);
}

}  // namespace

void test_training() {
    Random random(11);
    for (const int64_t size : {1, 7, 16, 33, 130}) {
        check_norm(65, size, random);
        check_swiglu(3, size, 4, random);
        check_swiglu(3, size, 60, random);
        check_softmax(5, size, random);
        check_cross_entropy(4, size, random);
    }
    for (const int64_t size : {1, 31, 40000}) check_optimizer(size, random);
    check_rotary({2, 5, 4, 2, 32, 8, 0.3f}, random);
    check_rotary({1, 3, 3, 3, 10, 5, 1.0f}, random);
    check_rotary({1, 9, 2, 1, 7, 1, 0.5f}, random);
}

}  // namespace paddle_glm_test
