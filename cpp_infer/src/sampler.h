#pragma once

#include <cstdint>
#include <vector>

#include "paddle_glm/params.h"
#include "random.h"

namespace paddle_glm {

// Samples tokens from logits as paddle_glm/generation/sampling.py: repetition penalty, temperature, top-k,
// top-p, then a draw. Ties are broken towards the lower id.

// Candidate ids, most likely first, with normalised probabilities.
struct Candidates {
    std::vector<int64_t> ids;
    std::vector<double> probabilities;
};

// Divides the scores of ids in the row by `penalty` (multiplies negative ones).
template <class Number>
void apply_repetition_penalty(Number* scores, const std::vector<char>& seen, double penalty) {
    const auto factor = static_cast<Number>(penalty);
    for (size_t id = 0; id < seen.size(); ++id) {
        if (seen[id]) scores[id] = scores[id] < 0 ? scores[id] * factor : scores[id] / factor;
    }
}

// Ids of the `count` highest scores, best first, including ties with the last; 0 means all.
std::vector<int64_t> top_k_ids(const double* scores, int64_t size, int64_t count);
Candidates top_k_top_p_filter(const float* logits, int64_t vocab, const GenerationParams& params);
int64_t sample_token(const float* logits, int64_t vocab, double uniform, const GenerationParams& params);

// Samples one token per row; owns the random state of one call. A row's random numbers depend only on the
// seed, its index in the batch and the step.
class Sampler {
  public:
    Sampler(const GenerationParams& params, int64_t batch)
        : params_(params), batch_(batch), random_(params.seed) {}

    // logits: [rows, vocab]; `rows`: their indices in the batch.
    std::vector<int64_t> pick(const std::vector<float>& logits, const std::vector<int64_t>& rows);

  private:
    GenerationParams params_;
    int64_t batch_;
    Random random_;
};

}  // namespace paddle_glm
