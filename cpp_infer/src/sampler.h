#pragma once

#include <cstdint>
#include <vector>

#include "paddle_glm/params.h"
#include "random.h"

namespace paddle_glm {

// From logits to the next token as paddle_glm/generation/sampling.py does: penalty, temperature, top-k,
// top-p, draw. Where values tie, the lower id counts as the more likely one.

// Ids that may be drawn, most likely first, with their probabilities (sum 1).
struct Candidates {
    std::vector<int64_t> ids;
    std::vector<double> probabilities;
};

// Scores of ids that a row has held, divided by `penalty` (multiplied where negative).
template <class Number>
void apply_repetition_penalty(Number* scores, const std::vector<char>& seen, double penalty) {
    const auto factor = static_cast<Number>(penalty);
    for (size_t id = 0; id < seen.size(); ++id) {
        if (seen[id]) scores[id] = scores[id] < 0 ? scores[id] * factor : scores[id] / factor;
    }
}

// Ids of the `count` highest scores and of all that tie with the last, best first; 0 means all.
std::vector<int64_t> top_k_ids(const double* scores, int64_t size, int64_t count);
Candidates top_k_top_p_filter(const float* logits, int64_t vocab, const GenerationParams& params);
int64_t sample_token(const float* logits, int64_t vocab, double uniform, const GenerationParams& params);

// Picks one token per row; owns the random numbers of one call. A row's numbers depend on the seed, its
// place in the batch and the step alone.
class Sampler {
  public:
    Sampler(const GenerationParams& params, int64_t batch)
        : params_(params), batch_(batch), random_(params.seed) {}

    // logits: [rows, vocab] of the places `rows` in the batch.
    std::vector<int64_t> pick(const std::vector<float>& logits, const std::vector<int64_t>& rows);

  private:
    GenerationParams params_;
    int64_t batch_;
    Random random_;
};

}  // namespace paddle_glm
