#pragma once

#include <cstdint>
#include <optional>

namespace paddle_glm {

// Generation parameters. Start from Session::defaults(), which holds the folder's defaults.
struct GenerationParams {
    bool do_sample = false;                 // sample; otherwise greedy decoding
    double temperature = 1.0;               // divides the logits
    int64_t top_k = 0;                      // sample from the k most likely tokens; 0: all
    double top_p = 1.0;                     // sample from the smallest set of tokens with this probability
    double repetition_penalty = 1.0;        // above 1 penalises tokens already in prompt or answer
    int64_t num_beams = 1;                  // above 1: beam search, without sampling
    double length_penalty = 1.0;            // exponent of the length that divides a beam's score
    bool early_stopping = false;            // end beam search as soon as num_beams answers are complete
    int64_t max_length = 0;                 // maximum tokens of prompt and answer
    std::optional<int64_t> max_new_tokens;  // maximum tokens of the answer; overrides max_length
    std::optional<uint64_t> seed;           // reproducible, and equal to Python's

    // Throws InputError for an invalid value.
    void check() const;
};

}  // namespace paddle_glm
