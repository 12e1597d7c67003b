#include "beam.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "runner.h"
#include "sampler.h"

namespace paddle_glm {
namespace {

using Ids = std::vector<int64_t>;

// Below every real score: a row's beams begin equal, so the first step may continue only one of them.
constexpr double kNever = -1e9;

// The best complete answers of one row, at most `num_beams`.
class Answers {
  public:
    explicit Answers(const GenerationParams& params) : params_(params) {}

    // Keeps an answer (its end token counts in its length) if it is among the best.
    void add(double log_probability, Ids tokens) {
        const double own = score(log_probability, tokens.size());
        if (!full() || own > worst()->first) kept_.emplace_back(own, std::move(tokens));
        if (static_cast<int64_t>(kept_.size()) > params_.num_beams) kept_.erase(worst());
    }

    // Whether no open beam can enter any more; the best of them is judged at its present length.
    bool is_final(double best_log_probability, size_t length) {
        if (!full()) return false;
        return params_.early_stopping || worst()->first >= score(best_log_probability, length);
    }

    const Ids& best() const { return std::max_element(kept_.begin(), kept_.end(), lower)->second; }

  private:
    using Kept = std::pair<double, Ids>;

    static bool lower(const Kept& left, const Kept& right) { return left.first < right.first; }
    double score(double log_probability, size_t length) const {
        return log_probability / std::pow(static_cast<double>(length), params_.length_penalty);
    }
    bool full() const { return static_cast<int64_t>(kept_.size()) >= params_.num_beams; }
    std::vector<Kept>::iterator worst() { return std::min_element(kept_.begin(), kept_.end(), lower); }

    const GenerationParams& params_;
    std::vector<Kept> kept_;
};

// One row of the batch: its open beams, their log probabilities, and its complete answers.
struct Row {
    explicit Row(const GenerationParams& params)
        : count(params.num_beams), answers(params), beams(count), scores(count, kNever) {
        scores[0] = 0;
    }

    // Takes one step with the best continuations, best first; sets each new beam's parent and token. A place
    // in `totals` is beam * vocab + token. A continuation that ends is an answer only if it is among the
    // `count` best.
    void advance(const double* totals, const Ids& places, const Runner& runner) {
        std::vector<Ids> grown_beams;
        parents.clear();
        tokens.clear();
        scores.clear();
        for (size_t rank = 0; rank < places.size() && scores.size() < count; ++rank) {
            const int64_t parent = places[rank] / runner.vocab(), token = places[rank] % runner.vocab();
            const bool ends = runner.ends(token);
            if (ends && rank >= count) continue;
            Ids grown = beams[parent];
            grown.push_back(token);
            if (ends) {
                answers.add(totals[places[rank]], std::move(grown));
                continue;
            }
            grown_beams.push_back(std::move(grown));
            scores.push_back(totals[places[rank]]);
            parents.push_back(parent);
            tokens.push_back(token);
        }
        beams = std::move(grown_beams);
        done = answers.is_final(totals[places[0]], beams[0].size());
    }

    // The best answer; beams that were still open when the length was reached take part.
    const Ids& finish() {
        for (size_t beam = 0; !done && beam < count; ++beam) answers.add(scores[beam], beams[beam]);
        return answers.best();
    }

    size_t count;
    Answers answers;
    std::vector<Ids> beams;
    std::vector<double> scores;
    Ids parents, tokens;
    bool done = false;
};

// float64 [rows, vocab].
std::vector<double> log_softmax(const std::vector<float>& logits, int64_t vocab) {
    std::vector<double> result(logits.begin(), logits.end());
    for (auto row = result.begin(); row != result.end(); row += vocab) {
        const double highest = *std::max_element(row, row + vocab);
        double sum = 0;
        std::for_each(row, row + vocab, [&](double& one) { sum += std::exp(one -= highest); });
        const double log_sum = std::log(sum);
        std::for_each(row, row + vocab, [&](double& one) { one -= log_sum; });
    }
    return result;
}

// Rows [rows, size / rows] of flat `values`, each `count` times in turn.
template <class Value>
std::vector<Value> repeated(const std::vector<Value>& values, size_t rows, size_t count) {
    const size_t width = values.size() / rows;
    std::vector<Value> result;
    for (auto row = values.begin(); row != values.end(); row += width) {
        for (size_t copy = 0; copy < count; ++copy) result.insert(result.end(), row, row + width);
    }
    return result;
}

// All rows take a step over scores [rows * beams, vocab]: log probabilities, which become those of the whole
// beams. Gives each beam's parent, as a row of the engine, and its token; a row that is done repeats itself.
std::pair<Ids, Ids> advance(std::vector<Row>& rows, std::vector<double>& scores, const Runner& runner) {
    std::pair<Ids, Ids> result;
    auto& [parents, tokens] = result;
    const size_t size = scores.size() / rows.size();
    for (size_t index = 0; index < rows.size(); ++index) {
        Row& row = rows[index];
        const auto first = static_cast<int64_t>(index * row.count);
        if (row.done) {
            for (size_t beam = 0; beam < row.count; ++beam) parents.push_back(first + beam);
            tokens.insert(tokens.end(), row.count, runner.pad());
            continue;
        }
        double* totals = scores.data() + index * size;
        for (size_t place = 0; place < size; ++place) totals[place] += row.scores[place / runner.vocab()];
        // So many leave `count` continuations even if every beam's end tokens come first.
        const size_t wanted = std::max<size_t>(2, 1 + runner.stops()) * row.count;
        Ids places = best_ids(totals, static_cast<int64_t>(size), static_cast<int64_t>(wanted));
        places.resize(std::min(places.size(), wanted));  // without those that tie with the last
        row.advance(totals, places, runner);
        for (const int64_t parent : row.parents) parents.push_back(first + parent);
        tokens.insert(tokens.end(), row.tokens.begin(), row.tokens.end());
    }
    return result;
}

}  // namespace

std::vector<Ids> beam_search(Runner& runner, const std::vector<Ids>& prompts, const GenerationParams& params,
                             int64_t steps) {
    const size_t count = params.num_beams, batch = prompts.size();
    std::vector<Row> rows(batch, Row(params));
    Seen seen(repeated(prompts, batch, count), runner.vocab(), params.repetition_penalty);
    std::vector<float> logits = repeated(runner.prefill(), batch, count);
    Ids first(batch);
    std::iota(first.begin(), first.end(), 0);
    runner.select(repeated(first, batch, count));
    for (int64_t step = 1;; ++step) {
        std::vector<double> scores = log_softmax(logits, runner.vocab());
        seen.penalise(scores);
        const auto [parents, tokens] = advance(rows, scores, runner);
        const auto open = std::count_if(rows.begin(), rows.end(), [](const Row& row) { return !row.done; });
        if (open == 0 || step == steps) break;
        runner.select(parents);
        seen.select(parents);
        seen.add(tokens);
        logits = runner.decode(tokens, open);
    }
    std::vector<Ids> answers;
    for (Row& row : rows) answers.push_back(row.finish());
    return answers;
}

}  // namespace paddle_glm
