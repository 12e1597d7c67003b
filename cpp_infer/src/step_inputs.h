#pragma once

#include <cstdint>
#include <vector>

#include "meta.h"

namespace paddle_glm {

// All tokens so far, row by row: [batch, total]; `real` is 0 on padding.
struct Tokens {
    std::vector<std::vector<int64_t>> ids;
    std::vector<std::vector<int64_t>> real;

    // Rows of different lengths, padded on the left.
    static Tokens padded(const std::vector<std::vector<int64_t>>& prompts, int64_t pad);

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

// ids, positions and mask of the last `count` tokens, in the order and under the names of `steps`. The mask
// has `in_front` ones before each row's own, for a prefix, which positions do not count.
// Throws InputError where the rule cannot place a row's tokens.
std::vector<StepInput> step_inputs(const std::vector<TensorMeta>& steps, const PositionRule& rule,
                                   const Tokens& tokens, int64_t count, int64_t in_front);

}  // namespace paddle_glm
