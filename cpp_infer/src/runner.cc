#include "runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

#include "paddle_glm/error.h"

namespace paddle_glm {
namespace {

void check_ids(const std::vector<std::vector<int64_t>>& prompts, int64_t vocab) {
    for (const auto& prompt : prompts) {
        for (const int64_t id : prompt) {
            if (id >= 0 && id < vocab) continue;
            throw InputError("token id " + std::to_string(id) + " is outside the model's vocabulary of " +
                             std::to_string(vocab) + ": does the tokenizer belong to this model?");
        }
    }
}

void check_finite(const std::vector<float>& logits, int64_t vocab, int64_t step) {
    const auto bad =
        std::find_if(logits.begin(), logits.end(), [](float one) { return !std::isfinite(one); });
    if (bad == logits.end()) return;
    throw InputError("the logits of generation step " + std::to_string(step) + ", row " +
                     std::to_string((bad - logits.begin()) / vocab) +
                     " are not finite: the weights are damaged, or overflow in float16");
}

}  // namespace

ModelRunner::ModelRunner(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts,
                         Timing& timing)
    : engine_(engine),
      meta_(meta),
      tokens_(TokenBatch::pad_left(prompts, meta.pad_token_id)),
      timing_(timing) {
    check_ids(prompts, meta.vocab_size);
    timing_ = {};
    for (const auto& prompt : prompts) timing_.prompt_tokens += static_cast<int64_t>(prompt.size());
}

bool ModelRunner::is_stop_token(int64_t token) const {
    const auto& ids = meta_.stop_token_ids;
    return std::find(ids.begin(), ids.end(), token) != ids.end();
}

std::vector<float> ModelRunner::prefill() {
    const auto start = std::chrono::steady_clock::now();
    engine_.reset(tokens_.batch());
    std::vector<float> logits = step(tokens_.total(), 0);
    timing_.prefill_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return logits;
}

std::vector<float> ModelRunner::decode(const std::vector<int64_t>& tokens, int64_t answers) {
    tokens_.append(tokens);
    timing_.decode_tokens += answers;
    return step(1, ++timing_.decode_steps);
}

void ModelRunner::select(const std::vector<int64_t>& rows) {
    bool same = static_cast<int64_t>(rows.size()) == tokens_.batch();
    for (size_t row = 0; same && row < rows.size(); ++row) same = rows[row] == static_cast<int64_t>(row);
    if (same) return;
    tokens_.select(rows);
    engine_.select(rows);
}

std::vector<float> ModelRunner::step(int64_t count, int64_t number) {
    const std::vector<StepInput> inputs =
        step_inputs(meta_.token_inputs, meta_.positions, tokens_, count, meta_.prefix_cache.length);
    std::vector<EngineInput> borrowed;
    for (const StepInput& one : inputs) borrowed.push_back({one.name, &one.shape, &one.values});
    std::vector<float> logits = engine_.run(borrowed);
    if (static_cast<int64_t>(logits.size()) != tokens_.batch() * meta_.vocab_size) {
        throw InputError("the graph gave " + std::to_string(logits.size()) + " logits for " +
                         std::to_string(tokens_.batch()) + " rows: it is not the graph that was exported");
    }
    check_finite(logits, meta_.vocab_size, number);
    return logits;
}

SeenTokens::SeenTokens(const std::vector<std::vector<int64_t>>& prompts, int64_t vocab, double penalty)
    : penalty_(penalty) {
    if (penalty == 1.0) return;
    for (const auto& prompt : prompts) {
        rows_.emplace_back(vocab, 0);
        for (const int64_t id : prompt) rows_.back()[id] = 1;
    }
}

void SeenTokens::add(const std::vector<int64_t>& tokens) {
    for (size_t row = 0; row < rows_.size(); ++row) rows_[row][tokens[row]] = 1;
}

void SeenTokens::select(const std::vector<int64_t>& rows) {
    if (rows_.empty()) return;
    std::vector<std::vector<char>> chosen;
    for (const int64_t row : rows) chosen.push_back(rows_[row]);
    rows_ = std::move(chosen);
}

}  // namespace paddle_glm
