#include "generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "sampler.h"
#include "step_inputs.h"

namespace paddle_glm {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// How many tokens may follow prompts of `length` tokens.
int64_t steps_left(const GenerationParams& params, const Meta& meta, int64_t length) {
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

// Which ids each running row has held: only kept with a repetition penalty.
class Seen {
  public:
    Seen(const std::vector<std::vector<int64_t>>& prompts, int64_t vocab, double penalty)
        : penalty_(penalty) {
        if (penalty == 1.0) return;
        for (const auto& prompt : prompts) {
            rows_.emplace_back(vocab, 0);
            for (const int64_t id : prompt) rows_.back()[id] = 1;
        }
    }

    void penalise(std::vector<float>& logits) const {
        for (size_t row = 0; row < rows_.size(); ++row) {
            paddle_glm::penalise(logits.data() + row * rows_[row].size(), rows_[row], penalty_);
        }
    }

    void add(const std::vector<int64_t>& tokens) {
        for (size_t row = 0; row < rows_.size(); ++row) rows_[row][tokens[row]] = 1;
    }

    void select(const std::vector<int64_t>& kept) {
        if (rows_.empty()) return;
        std::vector<std::vector<char>> chosen;
        for (const int64_t row : kept) chosen.push_back(std::move(rows_[row]));
        rows_ = std::move(chosen);
    }

  private:
    double penalty_;
    std::vector<std::vector<char>> rows_;
};

// The engine with the tokens that it has taken.
class Runner {
  public:
    Runner(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts)
        : engine_(engine), meta_(meta), tokens_(Tokens::padded(prompts, meta.pad_token_id)) {
        engine_.reset(tokens_.batch());
    }

    int64_t length() const { return tokens_.total(); }

    std::vector<float> prefill() { return step(tokens_.total()); }

    std::vector<float> decode(const std::vector<int64_t>& tokens) {
        tokens_.append(tokens);
        return step(1);
    }

    void select(const std::vector<int64_t>& rows) {
        tokens_.select(rows);
        engine_.select(rows);
    }

  private:
    std::vector<float> step(int64_t count) {
        const std::vector<StepInput> inputs =
            step_inputs(meta_.steps, meta_.positions, tokens_, count, meta_.first_cache.length);
        std::vector<EngineInput> borrowed;
        for (const StepInput& one : inputs) borrowed.push_back({one.name, &one.shape, &one.values});
        std::vector<float> logits = engine_.run(borrowed);
        if (static_cast<int64_t>(logits.size()) != tokens_.batch() * meta_.vocab_size) {
            throw InputError("the graph gave " + std::to_string(logits.size()) + " logits for " +
                             std::to_string(tokens_.batch()) +
                             " rows: it is not the graph that was exported");
        }
        return logits;
    }

    Engine& engine_;
    const Meta& meta_;
    Tokens tokens_;
};

// Places in `tokens` that are no end token.
std::vector<int64_t> unfinished(const std::vector<int64_t>& tokens, const std::vector<int64_t>& ends) {
    std::vector<int64_t> result;
    for (size_t place = 0; place < tokens.size(); ++place) {
        if (std::find(ends.begin(), ends.end(), tokens[place]) == ends.end()) {
            result.push_back(static_cast<int64_t>(place));
        }
    }
    return result;
}

std::vector<int64_t> chosen(const std::vector<int64_t>& values, const std::vector<int64_t>& places) {
    std::vector<int64_t> result;
    for (const int64_t place : places) result.push_back(values[place]);
    return result;
}

}  // namespace

void generate(Engine& engine, const Meta& meta, const std::vector<std::vector<int64_t>>& prompts,
              const GenerationParams& params, const OnColumn& on_column, Timing& timing) {
    params.check();
    check_ids(prompts, meta.vocab_size);
    Runner runner(engine, meta, prompts);
    const int64_t steps = steps_left(params, meta, runner.length());
    const size_t batch = prompts.size();
    std::vector<int64_t> running(batch);  // places in the batch of the rows which the engine still holds
    std::iota(running.begin(), running.end(), 0);
    Sampler sampler(params, static_cast<int64_t>(batch));
    Seen seen(prompts, meta.vocab_size, params.repetition_penalty);

    timing = {};
    for (const auto& prompt : prompts) timing.prompt_tokens += static_cast<int64_t>(prompt.size());
    auto start = std::chrono::steady_clock::now();
    std::vector<float> logits = runner.prefill();
    timing.prefill_seconds = seconds_since(start);
    start = std::chrono::steady_clock::now();
    for (int64_t step = 0; step < steps; ++step) {
        check_finite(logits, meta.vocab_size, step);
        seen.penalise(logits);
        std::vector<int64_t> tokens = sampler.pick(logits, running);
        std::vector<int64_t> column(batch, -1);
        for (size_t row = 0; row < tokens.size(); ++row) column[running[row]] = tokens[row];
        const std::vector<int64_t> alive = unfinished(tokens, meta.stop_token_ids);
        if (!on_column(column) || alive.empty() || step + 1 == steps) break;
        seen.add(tokens);
        if (alive.size() < tokens.size()) {  // complete rows cost nothing from here on
            runner.select(alive);
            seen.select(alive);
            running = chosen(running, alive);
            tokens = chosen(tokens, alive);
        }
        logits = runner.decode(tokens);
        timing.decode_tokens += static_cast<int64_t>(tokens.size());
        ++timing.decode_steps;
    }
    timing.decode_seconds = seconds_since(start);
}

}  // namespace paddle_glm
