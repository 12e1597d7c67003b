// Norms, activation, rotary embedding, cache and attention, against float64.
#include "fused.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention.h"
#include "check.h"

namespace paddle_glm_test {
namespace {

using paddle_glm::Arithmetic;
using paddle_glm::CacheShape;
using paddle_glm::kPageColumns;
using paddle_glm::Past;

Buffer<float> normal(int64_t size, Random& random, float scale = 1) {
    Buffer<float> values(size);
    for (int64_t i = 0; i < size; i++) values[i] = scale * random.normal();
    return values;
}

void check_norm(int64_t rows, int64_t size, float scale, bool with_residual, Random& random) {
    set_case("rms_norm [%lld, %lld] of about %g, residual %d", static_cast<long long>(rows),
             static_cast<long long>(size), scale, with_residual);
    const Buffer<float> x = normal(rows * size, random, scale), weight = normal(size, random);
    const Buffer<float> residual = normal(rows * size, random, scale);
    Buffer<float> sum(rows * size), y(rows * size);
    const float epsilon = 1e-5f;
    paddle_glm::rms_norm(x.data(), with_residual ? residual.data() : nullptr, weight.data(), rows, size,
                         epsilon, with_residual ? sum.data() : nullptr, y.data());
    for (int64_t m = 0; m < rows; m++) {
        std::vector<double> row(size);
        double squares = 0;
        for (int64_t i = 0; i < size; i++) {
            const int64_t at = m * size + i;
            row[i] = with_residual ? x[at] + residual[at] : x[at];
            if (with_residual) check_close(sum[at], row[i], 0, "sum", m, i);
            squares += row[i] * row[i];
        }
        const double factor = 1 / std::sqrt(squares / size + epsilon);
        for (int64_t i = 0; i < size; i++) {
            const double expected = row[i] * factor * weight[i];
            check_close(y[m * size + i], expected, 4e-6 * std::abs(expected) + 1e-37, "y", m, i);
        }
    }
}

void check_swiglu(int64_t rows, int64_t size, float scale, Random& random) {
    set_case("swiglu [%lld, %lld] of about %g", static_cast<long long>(rows), static_cast<long long>(size),
             scale);
    const Buffer<float> x = normal(rows * 2 * size, random, scale);
    Buffer<float> y(rows * size);
    paddle_glm::swiglu(x.data(), rows, size, y.data());
    for (int64_t i = 0; i < y.size(); i++) {
        const int64_t m = i / size, c = i % size;
        const double gate = x[m * 2 * size + c], up = x[m * 2 * size + size + c];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        check_close(y[i], expected, 4e-6 * std::abs(expected) + 1e-30, "y", m, c);
    }
}

// Of a step that appends `tokens` columns behind `past`.
struct Step {
    int64_t heads, tokens;
    Past past;
    int64_t half;
    CacheShape cache;
    int64_t pages = 0;  // of the cache's table

    int64_t head_dim() const { return cache.head_dim; }
    int64_t columns(int64_t row) const { return past[row] + tokens; }
    int64_t cache_size() const {
        return cache.table == nullptr ? cache.batch * cache.kv_heads * cache.capacity * cache.head_dim
                                      : pages * cache.kv_heads * kPageColumns * cache.head_dim;
    }
};

// `append_cache` of what lies in other columns gives the same buffers.
void check_append(const Step& step, const Buffer<float>& key, const Buffer<float>& value, Random& random) {
    const CacheShape& cache = step.cache;
    const int64_t d = step.head_dim();
    Buffer<float> new_keys(cache.batch * cache.kv_heads * step.tokens * d), new_values = new_keys;
    Buffer<float> keys = key, values = value;
    for (int64_t i = 0; i < new_keys.size(); i++) {
        const int64_t b = i / d / step.tokens / cache.kv_heads, h = i / d / step.tokens % cache.kv_heads;
        const int64_t at = cache.column(b, h, step.past[b] + i / d % step.tokens) + i % d;
        new_keys[i] = key[at];
        new_values[i] = value[at];
        keys[at] = values[at] = random.normal();
    }
    paddle_glm::append_cache(new_keys.data(), new_values.data(), step.tokens, cache, step.past, keys.data(),
                             values.data());
    check(keys == key && values == value, "append_cache wrote something else");
}

void check_rotary(const Step& step, Random& random) {
    const CacheShape& cache = step.cache;
    const int64_t d = step.head_dim(), blocks = step.heads + 2 * cache.kv_heads;
    set_case("append_rotary: %lld heads of %lld, %lld rotated, %lld tokens behind %lld, %lld pages",
             static_cast<long long>(step.heads), static_cast<long long>(d),
             static_cast<long long>(2 * step.half), static_cast<long long>(step.tokens),
             static_cast<long long>(step.past[0]), static_cast<long long>(step.pages));
    const Buffer<float> qkv = normal(cache.batch * step.tokens * blocks * d, random);
    const Buffer<float> cos = normal(cache.batch * step.tokens * step.half, random);
    const Buffer<float> sin = normal(cos.size(), random);
    const Buffer<float> before = normal(step.cache_size(), random);
    Buffer<float> key = before, value = before, query(cache.batch * step.heads * step.tokens * d);
    paddle_glm::append_rotary(qkv.data(), cos.data(), sin.data(), step.tokens, step.heads, step.half, cache,
                              step.past, key.data(), value.data(), query.data());
    const auto rotated = [&](int64_t b, int64_t t, int64_t block, int64_t i) {
        const float* in = qkv.data() + ((b * step.tokens + t) * blocks + block) * d;
        if (i >= 2 * step.half) return double(in[i]);
        const int64_t at = (b * step.tokens + t) * step.half + i / 2;
        return i % 2 ? in[i] * double(cos[at]) + in[i - 1] * double(sin[at])
                     : in[i] * double(cos[at]) - in[i + 1] * double(sin[at]);
    };
    for (int64_t b = 0; b < cache.batch; b++)
        for (int64_t t = 0; t < step.tokens; t++)
            for (int64_t h = 0; h < step.heads; h++)
                for (int64_t i = 0; i < d; i++)
                    check_close(query[((b * step.heads + h) * step.tokens + t) * d + i], rotated(b, t, h, i),
                                2e-6, "query", h, i);
    Buffer<float> keys = before, values = before;
    for (int64_t b = 0; b < cache.batch; b++)
        for (int64_t h = 0; h < cache.kv_heads; h++)
            for (int64_t t = 0; t < step.tokens; t++)
                for (int64_t i = 0; i < d; i++) {
                    const int64_t at = cache.column(b, h, step.past[b] + t) + i;
                    const int64_t block = step.heads + cache.kv_heads + h;
                    check_close(key[at], rotated(b, t, step.heads + h, i), 2e-6, "key", t, i);
                    keys[at] = key[at];
                    values[at] = qkv[((b * step.tokens + t) * blocks + block) * d + i];
                }
    check(key == keys, "keys of other columns changed");
    check(value == values, "values differ");
    check_append(step, key, value, random);
}

enum class Mask { kNone, kCausal, kRandom, kNull };

Buffer<float> make_mask(const Step& step, Mask kind, Random& random) {
    const int64_t columns = step.columns(0);
    Buffer<float> mask(step.cache.batch * step.tokens * columns);
    for (int64_t i = 0; i < mask.size(); i++) {
        const int64_t t = i / columns % step.tokens, c = i % columns;
        const bool hidden = kind == Mask::kCausal   ? c > step.past[0] + t
                            : kind == Mask::kRandom ? c > 0 && random.integer(0, 2) == 0
                                                    : false;
        mask[i] = hidden ? -1e9f : 0;
    }
    return mask;
}

void check_attention(const Step& step, Mask kind, float largest, Arithmetic arithmetic, Random& random) {
    const CacheShape& cache = step.cache;
    const int64_t d = step.head_dim(), columns = step.columns(0);
    set_case("attention: %lld heads of %lld in %lld, %lld tokens behind %lld, mask %d, values of %g, %d",
             static_cast<long long>(step.heads), static_cast<long long>(d),
             static_cast<long long>(cache.kv_heads), static_cast<long long>(step.tokens),
             static_cast<long long>(step.past[0]), static_cast<int>(kind), largest,
             static_cast<int>(arithmetic));
    const Buffer<float> query = normal(cache.batch * step.heads * step.tokens * d, random, largest);
    const Buffer<float> key = normal(step.cache_size(), random);
    const Buffer<float> value = normal(key.size(), random);
    const Buffer<float> mask = kind == Mask::kNull ? Buffer<float>(0) : make_mask(step, kind, random);
    Buffer<float> output(query.size());
    paddle_glm::Attention attention{};
    attention.query = query.data();
    attention.key = key.data();
    attention.value = value.data();
    attention.mask = kind == Mask::kNull ? nullptr : mask.data();
    attention.mask_batch_stride = step.tokens * columns;
    attention.mask_row_stride = columns;
    attention.cache = cache;
    attention.heads = step.heads;
    attention.tokens = step.tokens;
    attention.past = step.past;
    attention.scale = 1 / std::sqrt(static_cast<float>(d));
    attention.arithmetic = arithmetic;
    attention.output = output.data();
    paddle_glm::attend(attention);
    for (int64_t b = 0; b < cache.batch; b++)
        for (int64_t h = 0; h < step.heads; h++)
            for (int64_t t = 0; t < step.tokens; t++) {
                const float* q = query.data() + ((b * step.heads + h) * step.tokens + t) * d;
                const int64_t kv_head = h / attention.group();
                double most = -INFINITY, total = 0;
                const int64_t seen = kind == Mask::kNull ? step.past[b] + t + 1 : columns;
                std::vector<double> scores(seen);
                for (int64_t c = 0; c < seen; c++) {
                    scores[c] = 0;
                    for (int64_t i = 0; i < d; i++)
                        scores[c] += double(q[i]) * key[cache.column(b, kv_head, c) + i];
                    scores[c] *= attention.scale;
                    if (kind != Mask::kNull) scores[c] += attention.mask_row(b, t)[c];
                    most = std::max(most, scores[c]);
                }
                for (double& score : scores) total += score = std::exp(score - most);
                for (int64_t i = 0; i < d; i++) {
                    double expected = 0;
                    for (int64_t c = 0; c < seen; c++)
                        expected += scores[c] / total * value[cache.column(b, kv_head, c) + i];
                    // Scores of `largest` times a few have errors of that much in their last digits.
                    const double digits = arithmetic == Arithmetic::kFloat32 ? 2e-6 : 2e-2;
                    check_close(output[((b * step.tokens + t) * step.heads + h) * d + i], expected,
                                digits * (4 + 4 * largest), "output", t, h * d + i);
                }
            }
}

// Rows of several lengths in pages of any order.
void check_pages(int64_t heads, int64_t kv_heads, int64_t tokens, int64_t head_dim, Random& random) {
    const int64_t batch = random.integer(1, 4), pages = (600 + tokens) / kPageColumns + 1;
    Buffer<int64_t> past(batch), table(batch * pages);
    for (int64_t row = 0; row < batch; row++) past[row] = random.integer(0, row == 0 ? 600 : 130);
    for (int64_t i = 0; i < table.size(); i++) table[i] = i;
    for (int64_t i = table.size() - 1; i > 0; i--)
        std::swap(table[i], table[random.integer(0, static_cast<int>(i))]);
    const int64_t held = table.size();
    for (int64_t row = 0; row < batch; row++)  // behind a row's last page anything
        for (int64_t i = (past[row] + tokens - 1) / kPageColumns + 1; i < pages; i++)
            table[row * pages + i] = -1;
    CacheShape cache{batch, kv_heads, pages * kPageColumns, head_dim};
    cache.table = table.data();
    const Step step{heads, tokens, {0, past.data()}, head_dim / 4, cache, held};
    check_rotary(step, random);
    for (auto arithmetic : {Arithmetic::kFloat32, Arithmetic::kInt8})
        check_attention(step, Mask::kNull, 1, arithmetic, random);
}

void check_widen(int64_t size, Random& random) {
    set_case("widen [%lld]", static_cast<long long>(size));
    Buffer<uint16_t> weight(size);
    for (int64_t i = 0; i < size; i++) weight[i] = static_cast<uint16_t>(random.bits());
    for (auto type : {paddle_glm::FloatType::kFloat16, paddle_glm::FloatType::kBfloat16}) {
        const float* wide = paddle_glm::widen(weight.data(), type, size);
        for (int64_t i = 0; i < size; i++)
            check_close(wide[i], paddle_glm::to_float(weight[i], type), 0, "weight", 0, i);
    }
}

}  // namespace

void test_fused() {
    Random random(3);
    for (int64_t size : {1, 64, 100, 40000}) check_widen(size, random);
    for (int64_t size : {1, 3, 8, 15, 16, 31, 32, 33, 64, 100, 257})
        for (int64_t rows : {1, 3}) {
            for (float scale : {1.0f, 1e-4f, 1e6f}) check_norm(rows, size, scale, size % 2, random);
            for (float scale : {1.0f, 30.0f, 200.0f}) check_swiglu(rows, size, scale, random);
        }
    for (int64_t tokens : {1, 2, 5, 33, 70})
        for (int64_t head_dim : {4, 8, 20, 64}) {
            const int64_t kv_heads = random.integer(1, 2), past = random.integer(0, 90);
            const CacheShape cache{random.integer(1, 2), kv_heads, past + tokens + random.integer(0, 3),
                                   head_dim};
            const Step step{kv_heads * random.integer(1, 3), tokens, {past}, head_dim / 4, cache};
            check_rotary(step, random);
            for (auto arithmetic : {Arithmetic::kFloat32, Arithmetic::kInt8})
                for (auto mask : {Mask::kNone, Mask::kCausal, Mask::kRandom, Mask::kNull})
                    check_attention(step, mask, 1, arithmetic, random);
            check_attention(step, Mask::kCausal, 50, Arithmetic::kFloat32, random);
        }
    for (int64_t tokens : {1, 3, 70})
        for (int64_t head_dim : {4, 20, 64}) check_pages(6, 2, tokens, head_dim, random);
    check_pages(40, 40, 1, 4, random);
    // A decoding step over several blocks of columns, and one over none but its own.
    const CacheShape cache{1, 2, 300, 32};
    check_attention({8, 1, {299}, 8, cache}, Mask::kNone, 1, Arithmetic::kFloat32, random);
    check_attention({8, 1, {}, 8, cache}, Mask::kNone, 1, Arithmetic::kFloat32, random);
}

}  // namespace paddle_glm_test
