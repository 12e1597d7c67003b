#pragma once

#include <cstdint>
#include <vector>

#include "meta.h"

namespace paddle_glm {

// All tokens so far, row by row: [batch, total]; `attention_mask` is 0 on padding.
struct TokenBatch {
    std::vector<std::vector<int64_t>> ids;
    std::vector<std::vector<int64_t>> attention_mask;

    // Rows of different lengths, padded on the left.
    static TokenBatch pad_left(const std::vector<std::vector<int64_t>>& prompts, int64_t pad);

    int64_t batch() const { return static_cast<int64_t>(ids.size()); }
    int64_t total() const { return static_cast<int64_t>(ids.front().size()); }
    void append(const std::vector<int64_t>& column);
    void select(const std::vector<int64_t>& rows);
};

// The named int64 inputs of a step over the last tokens, flat in C order.
struct StepInput {
    const char* name;
    std::vector<int64_t> shape;
    std::vector<int64_t> values;
};

// ids, positions and mask of the last `count` tokens, in the order and under the names of `token_inputs`. The
// mask has `prefix_length` ones before each row's own, for a prefix, which positions do not count. Throws
// InputError where the rule cannot place a row's tokens.
std::vector<StepInput> step_inputs(const std::vector<TensorMeta>& token_inputs, const PositionRule& rule,
                                   const TokenBatch& tokens, int64_t count, int64_t prefix_length);

}  // namespace paddle_glm
