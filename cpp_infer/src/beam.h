#pragma once

#include <cstdint>
#include <vector>

#include "paddle_glm/params.h"
#include "runner.h"

namespace paddle_glm {

// The best answer of each prompt, with its end token where it met one, over at most `steps` tokens: as
// `beam_search` of paddle_glm/generation/beam.py. The prompt runs once per row, not once per beam; a
// repetition penalty acts on log probabilities; temperature, top-k and top-p are for sampling alone.
std::vector<std::vector<int64_t>> beam_search(ModelRunner& runner,
                                              const std::vector<std::vector<int64_t>>& prompts,
                                              const GenerationParams& params, int64_t steps);

}  // namespace paddle_glm
