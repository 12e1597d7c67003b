#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace paddle_glm {
namespace {

void normalise(std::vector<double>& weights) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& weight : weights) weight /= sum;
}

}  // namespace

std::vector<int64_t> top_k_ids(const double* scores, int64_t size, int64_t count) {
    std::vector<int64_t> ids;
    if (count > 0 && count < size) {
        std::vector<double> sorted(scores, scores + size);
        std::nth_element(sorted.begin(), sorted.begin() + (count - 1), sorted.end(), std::greater<>());
        const double lowest = sorted[count - 1];
        for (int64_t id = 0; id < size; ++id) {
            if (scores[id] >= lowest) ids.push_back(id);
        }
    } else {
        ids.resize(size);
        std::iota(ids.begin(), ids.end(), 0);
    }
    std::stable_sort(ids.begin(), ids.end(),
                     [&](int64_t left, int64_t right) { return scores[left] > scores[right]; });
    return ids;
}

Candidates top_k_top_p_filter(const float* logits, int64_t vocab, const GenerationParams& params) {
    std::vector<double> scores(logits, logits + vocab);
    for (double& score : scores) score /= params.temperature;
    Candidates result{top_k_ids(scores.data(), vocab, params.top_k), {}};
    for (const int64_t id : result.ids) {
        result.probabilities.push_back(std::exp(scores[id] - scores[result.ids[0]]));
    }
    normalise(result.probabilities);
    if (params.top_p >= 1.0) return result;
    double cumulated = 0;
    size_t keep = 0;
    for (const double probability : result.probabilities) {
        cumulated += probability;
        if (cumulated - probability >= params.top_p) break;
        ++keep;
    }
    keep = std::max<size_t>(keep, 1);
    result.ids.resize(keep);
    result.probabilities.resize(keep);
    normalise(result.probabilities);
    return result;
}

int64_t sample_token(const float* logits, int64_t vocab, double uniform, const GenerationParams& params) {
    const Candidates chosen = top_k_top_p_filter(logits, vocab, params);
    double cumulated = 0;
    for (size_t place = 0; place < chosen.ids.size(); ++place) {
        cumulated += chosen.probabilities[place];
        if (cumulated > uniform) return chosen.ids[place];
    }
    return chosen.ids.back();
}

std::vector<int64_t> Sampler::pick(const std::vector<float>& logits, const std::vector<int64_t>& rows) {
    const auto vocab = static_cast<int64_t>(logits.size() / rows.size());
    std::vector<double> uniforms(params_.do_sample ? batch_ : 0);
    for (double& uniform : uniforms) uniform = random_.next();
    std::vector<int64_t> tokens;
    for (size_t row = 0; row < rows.size(); ++row) {
        const float* own = logits.data() + row * vocab;
        tokens.push_back(params_.do_sample ? sample_token(own, vocab, uniforms[rows[row]], params_)
                                           : std::max_element(own, own + vocab) - own);
    }
    return tokens;
}

}  // namespace paddle_glm
