#pragma once

#include <cstdint>
#include <vector>

#include "paddle_glm/params.h"
#include "runner.h"

namespace paddle_glm {

// Beam search, as `beam_search` of paddle_glm/generation/beam.py: the best hypothesis of each prompt, at most
// `steps` tokens, including its end token. Prefill runs once per row, not once per beam; the repetition
// penalty acts on log probabilities; temperature, top-k and top-p are not used.
std::vector<std::vector<int64_t>> beam_search(ModelRunner& runner,
                                              const std::vector<std::vector<int64_t>>& prompts,
                                              const GenerationParams& params, int64_t steps);

}  // namespace paddle_glm
