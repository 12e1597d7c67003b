#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine.h"
#include "meta.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// Receives one token per row and step, -1 for finished rows; returns false to stop.
using TokensCallback = std::function<bool(const std::vector<int64_t>& column)>;

// The maximum number of tokens behind prompts of `length` tokens. Throws InputError if there is no room for
// one.
int64_t max_answer_length(const GenerationParams& params, const Meta& meta, int64_t length);

// The generation loop, as `generate` of paddle_glm/generation/loop.py: runs until every row has an end token
// or the maximum length is reached. Finished rows are removed from the engine; beam search reports its tokens
// at the end. Throws InputError for too long prompts, invalid ids and non-finite logits.
void generate(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts,
              const GenerationParams& params, const TokensCallback& on_tokens, Timing& timing);

}  // namespace paddle_glm
