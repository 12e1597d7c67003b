#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine.h"
#include "meta.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// Takes one token per row and step, -1 for rows that were complete before; returns false to stop.
using TokensCallback = std::function<bool(const std::vector<int64_t>& column)>;

// The one generation loop, `generate` of paddle_glm/generation/loop.py: until every row has met an end
// token, or the length is reached. Complete rows leave the engine; beam search gives its columns when it is
// over. Throws InputError for a prompt without room, ids that the model does not have, and logits that are
// not finite.
void generate(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts,
              const GenerationParams& params, const TokensCallback& on_tokens, Timing& timing);

}  // namespace paddle_glm
