#pragma once

#include <cstdint>
#include <optional>

namespace paddle_glm {

// How answers are generated. Take Session::defaults() and change it: an exported folder holds the defaults.
struct GenerationParams {
    bool do_sample = false;           // draw from the distribution; otherwise take the most likely token
    double temperature = 1.0;         // divides the logits
    int64_t top_k = 0;                // draw only from this many most likely tokens; 0 means from all
    double top_p = 1.0;               // draw only from the fewest tokens that together have this probability
    double repetition_penalty = 1.0;  // above 1 makes tokens of prompt and answer less likely
    int64_t num_beams = 1;            // above 1 is beam search, which does not sample
    double length_penalty = 1.0;      // exponent of the length that divides a beam's score
    bool early_stopping = false;      // end beam search as soon as num_beams answers are complete
    int64_t max_length = 0;           // most tokens of prompt and answer together
    std::optional<int64_t> max_new_tokens;  // most tokens of the answer; wins over max_length
    std::optional<uint64_t> seed;           // the same seed gives the same answer, in Python too

    // Throws InputError naming a value that cannot work.
    void check() const;
};

}  // namespace paddle_glm
