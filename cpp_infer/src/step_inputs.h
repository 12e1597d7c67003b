#pragma once

#include <cstdint>
#include <vector>

#include "meta.h"

namespace paddle_glm {

// All tokens so far, [batch, total]; `attention_mask` is 0 for padding.
struct TokenBatch {
    std::vector<std::vector<int64_t>> ids;
    std::vector<std::vector<int64_t>> attention_mask;

    // Left-pads rows of different lengths.
    static TokenBatch pad_left(const std::vector<std::vector<int64_t>>& prompts, int64_t pad);

    int64_t batch() const { return static_cast<int64_t>(ids.size()); }
    int64_t total() const { return static_cast<int64_t>(ids.front().size()); }
    void append(const std::vector<int64_t>& column);
    void select(const std::vector<int64_t>& rows);
};

// A named int64 input of a step, flat in C order.
struct StepInput {
    const char* name;
    std::vector<int64_t> shape;
    std::vector<int64_t> values;
};

// Ids, positions and mask of the last `count` tokens, in the order of `token_inputs`. The mask starts with
// `prefix_length` ones for the prefix, which positions do not count. Throws InputError if the position rule
// does not apply to a row.
std::vector<StepInput> step_inputs(const std::vector<TensorMeta>& token_inputs, const PositionRule& rule,
                                   const TokenBatch& tokens, int64_t count, int64_t prefix_length);

}  // namespace paddle_glm
