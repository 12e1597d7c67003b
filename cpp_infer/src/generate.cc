#include "generate.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "beam.h"
#include "runner.h"
#include "sampler.h"

namespace paddle_glm {
namespace {

// Indices in `tokens` of tokens that are not end tokens.
std::vector<int64_t> unfinished_rows(const std::vector<int64_t>& tokens, const ModelRunner& runner) {
    std::vector<int64_t> result;
    for (size_t place = 0; place < tokens.size(); ++place) {
        if (!runner.is_stop_token(tokens[place])) result.push_back(static_cast<int64_t>(place));
    }
    return result;
}

std::vector<int64_t> gather(const std::vector<int64_t>& values, const std::vector<int64_t>& places) {
    std::vector<int64_t> result;
    for (const int64_t place : places) result.push_back(values[place]);
    return result;
}

// Greedy search and sampling.
void pick_tokens(ModelRunner& runner, const std::vector<std::vector<int64_t>>& prompts,
                 const GenerationParams& params, int64_t steps, const TokensCallback& on_tokens) {
    const size_t batch = prompts.size();
    std::vector<int64_t> running(batch);  // batch indices of the rows still in the engine
    std::iota(running.begin(), running.end(), 0);
    Sampler sampler(params, static_cast<int64_t>(batch));
    SeenTokens seen(prompts, runner.vocab_size(), params.repetition_penalty);
    std::vector<float> logits = runner.prefill();
    for (int64_t step = 1;; ++step) {
        seen.apply_repetition_penalty(logits);
        std::vector<int64_t> tokens = sampler.pick(logits, running);
        std::vector<int64_t> column(batch, -1);
        for (size_t row = 0; row < tokens.size(); ++row) column[running[row]] = tokens[row];
        const std::vector<int64_t> alive = unfinished_rows(tokens, runner);
        if (!on_tokens(column) || alive.empty() || step == steps) return;
        seen.add(tokens);
        if (alive.size() < tokens.size()) {  // drop finished rows from the engine
            runner.select(alive);
            seen.select(alive);
            running = gather(running, alive);
            tokens = gather(tokens, alive);
        }
        logits = runner.decode(tokens, static_cast<int64_t>(tokens.size()));
    }
}

// Beam search reports its tokens at the end.
void search_tokens(ModelRunner& runner, const std::vector<std::vector<int64_t>>& prompts,
                   const GenerationParams& params, int64_t steps, const TokensCallback& on_tokens) {
    const std::vector<std::vector<int64_t>> answers = beam_search(runner, prompts, params, steps);
    size_t length = 0;
    for (const auto& answer : answers) length = std::max(length, answer.size());
    for (size_t place = 0; place < length; ++place) {
        std::vector<int64_t> column;
        for (const auto& answer : answers) column.push_back(place < answer.size() ? answer[place] : -1);
        if (!on_tokens(column)) return;
    }
}

}  // namespace

int64_t max_answer_length(const GenerationParams& params, const Meta& meta, int64_t length) {
    const int64_t wanted = params.max_new_tokens ? length + *params.max_new_tokens : params.max_length;
    const int64_t last = std::min(wanted, meta.max_sequence_length);
    if (last <= length) {
        const std::string bound = last == wanted ? "max_length " + std::to_string(wanted)
                                                 : "the model's limit of " + std::to_string(last) + " tokens";
        throw InputError("a prompt of " + std::to_string(length) +
                         " tokens leaves no room for an answer within " + bound);
    }
    return last - length;
}

void generate(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts,
              const GenerationParams& params, const TokensCallback& on_tokens, Timing& timing) {
    params.check();
    ModelRunner runner(engine, meta, prompts, timing);
    const int64_t steps = max_answer_length(params, meta, runner.length());
    const auto start = std::chrono::steady_clock::now();
    (params.num_beams > 1 ? search_tokens : pick_tokens)(runner, prompts, params, steps, on_tokens);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    timing.decode_seconds = passed.count() - timing.prefill_seconds;
}

}  // namespace paddle_glm
