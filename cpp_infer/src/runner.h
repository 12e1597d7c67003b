#pragma once

#include <cstdint>
#include <vector>

#include "engine.h"
#include "meta.h"
#include "paddle_glm/session.h"
#include "sampler.h"
#include "step_inputs.h"

namespace paddle_glm {

// An engine together with the tokens in its cache.
class ModelRunner {
  public:
    // Adds steps and tokens to `timing`. Throws InputError for ids outside the vocabulary.
    ModelRunner(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts,
                Timing& timing);

    int64_t length() const { return tokens_.total(); }
    int64_t vocab_size() const { return meta_.vocab_size; }
    int64_t pad_token_id() const { return meta_.pad_token_id; }
    size_t num_stop_tokens() const { return meta_.stop_token_ids.size(); }
    bool is_stop_token(int64_t token) const;

    // Both return the logits of the last position, float32 [rows, vocab], and throw InputError if they are
    // not finite. `answers`: how many of the tokens belong to distinct answers.
    std::vector<float> prefill();
    std::vector<float> decode(const std::vector<int64_t>& tokens, int64_t answers);

    // Reorders rows: row i becomes the former row rows[i]; rows may repeat or be dropped.
    void select(const std::vector<int64_t>& rows);

  private:
    std::vector<float> step(int64_t count, int64_t number);

    Engine& engine_;
    const Meta& meta_;
    TokenBatch tokens_;
    Timing& timing_;
};

// The ids that each running row contains, tracked only with a repetition penalty.
class SeenTokens {
  public:
    SeenTokens(const std::vector<std::vector<int64_t>>& prompts, int64_t vocab, double penalty);

    // scores: [rows, vocab]
    template <class Number>
    void apply_repetition_penalty(std::vector<Number>& scores) const {
        for (size_t row = 0; row < rows_.size(); ++row) {
            paddle_glm::apply_repetition_penalty(scores.data() + row * rows_[row].size(), rows_[row],
                                                 penalty_);
        }
    }
    void add(const std::vector<int64_t>& tokens);
    void select(const std::vector<int64_t>& rows);

  private:
    double penalty_;
    std::vector<std::vector<char>> rows_;
};

}  // namespace paddle_glm
