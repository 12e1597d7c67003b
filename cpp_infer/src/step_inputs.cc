#include "step_inputs.h"

#include <algorithm>

#include "paddle_glm/error.h"

namespace paddle_glm {
namespace {

using Row = std::vector<int64_t>;

// The number of real tokens before each token; 0 for padding.
Row counted(const Row& attention_mask) {
    Row result;
    int64_t count = 0;
    for (const int64_t one : attention_mask) {
        count += one;
        result.push_back(std::max<int64_t>(count - 1, 0));
    }
    return result;
}

// The index of the first mask token of the preferred kind before `start`, or -1.
int64_t blank_place(const PositionRule& rule, const Row& ids, const Row& attention_mask, size_t start) {
    const Row count = counted(attention_mask);
    for (const int64_t blank : rule.blanks) {
        for (size_t place = 0; place < start; ++place) {
            if (attention_mask[place] && ids[place] == blank) return count[place];
        }
    }
    return -1;
}

// Both rows of positions of ChatGLM-6B: see `positions_2d` in paddle_glm/models/chatglm/positions.py.
std::vector<Row> blank_positions(const PositionRule& rule, const Row& ids, const Row& attention_mask) {
    size_t start = 0;
    while (start < ids.size() && !(attention_mask[start] && ids[start] == rule.start)) ++start;
    const int64_t place = blank_place(rule, ids, attention_mask, start);
    if (place < 0 || start == ids.size()) {
        throw InputError(
            "a prompt lacks the blank and the token that begins the answer: export the model again");
    }
    Row position = counted(attention_mask);
    Row block(ids.size(), 0);
    for (size_t index = start; index < ids.size(); ++index) {
        position[index] = place;
        block[index] = block[index - (index > start ? 1 : 0)] + 1;
    }
    return {position, block};
}

std::vector<Row> positions(const PositionRule& rule, const Row& ids, const Row& attention_mask) {
    if (!rule.blank) return {counted(attention_mask)};
    std::vector<Row> rows = blank_positions(rule, ids, attention_mask);
    if (rule.rows == 2) return rows;
    const bool counts = rule.counts_on < 0 || std::count(ids.begin(), ids.end(), rule.counts_on) > 0;
    return {counts ? counted(attention_mask) : rows[0]};
}

void append_last(std::vector<int64_t>& values, const Row& row, int64_t count) {
    values.insert(values.end(), row.end() - count, row.end());
}

}  // namespace

TokenBatch TokenBatch::pad_left(const std::vector<std::vector<int64_t>>& prompts, int64_t pad) {
    size_t width = 0;
    for (const Row& prompt : prompts) width = std::max(width, prompt.size());
    TokenBatch result;
    for (const Row& prompt : prompts) {
        result.ids.emplace_back(width - prompt.size(), pad);
        result.ids.back().insert(result.ids.back().end(), prompt.begin(), prompt.end());
        result.attention_mask.emplace_back(width - prompt.size(), 0);
        result.attention_mask.back().resize(width, 1);
    }
    return result;
}

void TokenBatch::append(const std::vector<int64_t>& column) {
    for (size_t row = 0; row < ids.size(); ++row) {
        ids[row].push_back(column[row]);
        attention_mask[row].push_back(1);
    }
}

void TokenBatch::select(const std::vector<int64_t>& rows) {
    TokenBatch chosen;
    for (const int64_t row : rows) {
        chosen.ids.push_back(ids[row]);
        chosen.attention_mask.push_back(attention_mask[row]);
    }
    *this = std::move(chosen);
}

std::vector<StepInput> step_inputs(const std::vector<TensorMeta>& token_inputs, const PositionRule& rule,
                                   const TokenBatch& tokens, int64_t count, int64_t prefix_length) {
    const int64_t batch = tokens.batch(), total = tokens.total();
    StepInput ids{token_inputs.at(0).name.c_str(), {batch, count}, {}};
    StepInput position{token_inputs.at(1).name.c_str(), {batch, count}, {}};
    StepInput mask{token_inputs.at(2).name.c_str(), {batch, prefix_length + total}, {}};
    if (rule.rows == 2) position.shape = {batch, rule.rows, count};
    for (int64_t row = 0; row < batch; ++row) {
        append_last(ids.values, tokens.ids[row], count);
        for (const Row& one : positions(rule, tokens.ids[row], tokens.attention_mask[row])) {
            append_last(position.values, one, count);
        }
        mask.values.insert(mask.values.end(), prefix_length, 1);
        append_last(mask.values, tokens.attention_mask[row], total);
    }
    return {std::move(ids), std::move(position), std::move(mask)};
}

}  // namespace paddle_glm
