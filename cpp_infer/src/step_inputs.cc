#include "step_inputs.h"

#include <algorithm>

#include "paddle_glm/error.h"

namespace paddle_glm {
namespace {

using Row = std::vector<int64_t>;

// How many real tokens stand before each; 0 on padding.
Row counted(const Row& real) {
    Row result;
    int64_t count = 0;
    for (const int64_t one : real) {
        count += one;
        result.push_back(std::max<int64_t>(count - 1, 0));
    }
    return result;
}

// The place of the first blank of the preferred kind before `start`, or -1.
int64_t blank_place(const PositionRule& rule, const Row& ids, const Row& real, size_t start) {
    const Row count = counted(real);
    for (const int64_t blank : rule.blanks) {
        for (size_t place = 0; place < start; ++place) {
            if (real[place] && ids[place] == blank) return count[place];
        }
    }
    return -1;
}

// Both rows of positions of ChatGLM-6B: `two_rows` in paddle_glm/families/chatglm.py says what they are.
std::vector<Row> blank_positions(const PositionRule& rule, const Row& ids, const Row& real) {
    size_t start = 0;
    while (start < ids.size() && !(real[start] && ids[start] == rule.start)) ++start;
    const int64_t place = blank_place(rule, ids, real, start);
    if (place < 0 || start == ids.size()) {
        throw InputError(
            "a prompt lacks the blank and the token that begins the answer: export the model again");
    }
    Row position = counted(real);
    Row block(ids.size(), 0);
    for (size_t index = start; index < ids.size(); ++index) {
        position[index] = place;
        block[index] = block[index - (index > start ? 1 : 0)] + 1;
    }
    return {position, block};
}

std::vector<Row> positions(const PositionRule& rule, const Row& ids, const Row& real) {
    if (!rule.blank) return {counted(real)};
    std::vector<Row> rows = blank_positions(rule, ids, real);
    if (rule.rows == 2) return rows;
    const bool counts = rule.counts_on < 0 || std::count(ids.begin(), ids.end(), rule.counts_on) > 0;
    return {counts ? counted(real) : rows[0]};
}

void append_last(std::vector<int64_t>& values, const Row& row, int64_t count) {
    values.insert(values.end(), row.end() - count, row.end());
}

}  // namespace

Tokens Tokens::padded(const std::vector<std::vector<int64_t>>& prompts, int64_t pad) {
    size_t width = 0;
    for (const Row& prompt : prompts) width = std::max(width, prompt.size());
    Tokens result;
    for (const Row& prompt : prompts) {
        result.ids.emplace_back(width - prompt.size(), pad);
        result.ids.back().insert(result.ids.back().end(), prompt.begin(), prompt.end());
        result.real.emplace_back(width - prompt.size(), 0);
        result.real.back().resize(width, 1);
    }
    return result;
}

void Tokens::append(const std::vector<int64_t>& column) {
    for (size_t row = 0; row < ids.size(); ++row) {
        ids[row].push_back(column[row]);
        real[row].push_back(1);
    }
}

void Tokens::select(const std::vector<int64_t>& rows) {
    Tokens chosen;
    for (const int64_t row : rows) {
        chosen.ids.push_back(ids[row]);
        chosen.real.push_back(real[row]);
    }
    *this = std::move(chosen);
}

std::vector<StepInput> step_inputs(const std::vector<TensorMeta>& steps, const PositionRule& rule,
                                   const Tokens& tokens, int64_t count, int64_t in_front) {
    const int64_t batch = tokens.batch(), total = tokens.total();
    StepInput ids{steps.at(0).name.c_str(), {batch, count}, {}};
    StepInput position{steps.at(1).name.c_str(), {batch, count}, {}};
    StepInput mask{steps.at(2).name.c_str(), {batch, in_front + total}, {}};
    if (rule.rows == 2) position.shape = {batch, rule.rows, count};
    for (int64_t row = 0; row < batch; ++row) {
        append_last(ids.values, tokens.ids[row], count);
        for (const Row& one : positions(rule, tokens.ids[row], tokens.real[row])) {
            append_last(position.values, one, count);
        }
        mask.values.insert(mask.values.end(), in_front, 1);
        append_last(mask.values, tokens.real[row], total);
    }
    return {std::move(ids), std::move(position), std::move(mask)};
}

}  // namespace paddle_glm
