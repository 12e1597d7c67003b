#include <cmath>
#include <memory>

#include "fused.h"
#include "parallel.h"

namespace paddle_glm {
namespace {

// One row of one head. scores: [columns].
void attend_row(const Attention& a, int64_t row, int64_t head, int64_t token, float* scores) {
    const int64_t size = a.cache.head_dim;
    const float* query = a.query + ((row * a.heads + head) * a.tokens + token) * size;
    const int64_t first = a.cache.column(row, head / a.group(), 0);
    const float* mask = a.mask_row(row, token);
    float largest = -INFINITY;
    for (int64_t c = 0; c < a.columns; c++) {
        const float* key = a.key + first + c * size;
        float dot = 0;
        for (int64_t i = 0; i < size; i++) dot += query[i] * key[i];
        scores[c] = dot * a.scale + mask[c];
        largest = std::fmax(largest, scores[c]);
    }
    float* out = a.output + ((row * a.tokens + token) * a.heads + head) * size;
    for (int64_t i = 0; i < size; i++) out[i] = 0;
    float sum = 0;
    for (int64_t c = 0; c < a.columns; c++) {
        const float weight = std::exp(scores[c] - largest);
        const float* value = a.value + first + c * size;
        sum += weight;
        for (int64_t i = 0; i < size; i++) out[i] += weight * value[i];
    }
    for (int64_t i = 0; i < size; i++) out[i] /= sum;
}

}  // namespace

void attend(const Attention& a) {
    parallel_for(a.cache.batch * a.heads * a.tokens, 1, [&](int64_t begin, int64_t end) {
        std::unique_ptr<float[]> scores(new float[a.columns]);
        for (int64_t i = begin; i < end; i++)
            attend_row(a, i / (a.heads * a.tokens), i / a.tokens % a.heads, i % a.tokens, scores.get());
    });
}

}  // namespace paddle_glm
