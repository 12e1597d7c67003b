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

// Below every real score: a row's beams start equal, so the first step may continue only one of them.
constexpr double kMaskedScore = -1e9;

// The best complete hypotheses of one row, at most `num_beams`.
class BeamHypotheses {
  public:
    explicit BeamHypotheses(const GenerationParams& params) : params_(params) {}

    // Adds a hypothesis (its length includes the end token) if it is among the best.
    void add(double log_probability, Ids tokens) {
        const double own = score(log_probability, tokens.size());
        if (!full() || own > worst()->first) hypotheses_.emplace_back(own, std::move(tokens));
        if (static_cast<int64_t>(hypotheses_.size()) > params_.num_beams) hypotheses_.erase(worst());
    }

    // Whether no open beam can improve the result; the best one is scored at its current length.
    bool is_done(double best_log_probability, size_t length) {
        if (!full()) return false;
        return params_.early_stopping || worst()->first >= score(best_log_probability, length);
    }

    const Ids& best() const {
        return std::max_element(hypotheses_.begin(), hypotheses_.end(), lower)->second;
    }

  private:
    using Hypothesis = std::pair<double, Ids>;

    static bool lower(const Hypothesis& left, const Hypothesis& right) { return left.first < right.first; }
    double score(double log_probability, size_t length) const {
        return log_probability / std::pow(static_cast<double>(length), params_.length_penalty);
    }
    bool full() const { return static_cast<int64_t>(hypotheses_.size()) >= params_.num_beams; }
    std::vector<Hypothesis>::iterator worst() {
        return std::min_element(hypotheses_.begin(), hypotheses_.end(), lower);
    }

    const GenerationParams& params_;
    std::vector<Hypothesis> hypotheses_;
};

// A row of the batch: its open beams, their log probabilities, and its complete hypotheses.
struct BeamState {
    explicit BeamState(const GenerationParams& params)
        : count(params.num_beams), hypotheses(params), beams(count), scores(count, kMaskedScore) {
        scores[0] = 0;
    }

    // One step with the best continuations, best first; sets each new beam's parent and token. Indices into
    // `totals` are beam * vocab + token. A finished continuation becomes a hypothesis only if it is among the
    // `count` best.
    void advance(const double* totals, const Ids& places, const ModelRunner& runner) {
        std::vector<Ids> grown_beams;
        parents.clear();
        tokens.clear();
        scores.clear();
        for (size_t rank = 0; rank < places.size() && scores.size() < count; ++rank) {
            const int64_t parent = places[rank] / runner.vocab_size(),
                          token = places[rank] % runner.vocab_size();
            const bool ends = runner.is_stop_token(token);
            if (ends && rank >= count) continue;
            Ids grown = beams[parent];
            grown.push_back(token);
            if (ends) {
                hypotheses.add(totals[places[rank]], std::move(grown));
                continue;
            }
            grown_beams.push_back(std::move(grown));
            scores.push_back(totals[places[rank]]);
            parents.push_back(parent);
            tokens.push_back(token);
        }
        beams = std::move(grown_beams);
        done = hypotheses.is_done(totals[places[0]], beams[0].size());
    }

    // The best hypothesis, including beams still open at the maximum length.
    const Ids& finish() {
        for (size_t beam = 0; !done && beam < count; ++beam) hypotheses.add(scores[beam], beams[beam]);
        return hypotheses.best();
    }

    size_t count;
    BeamHypotheses hypotheses;
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

// Repeats each row of flat `values`, [rows, size / rows], `count` times.
template <class Value>
std::vector<Value> repeated(const std::vector<Value>& values, size_t rows, size_t count) {
    const size_t width = values.size() / rows;
    std::vector<Value> result;
    for (auto row = values.begin(); row != values.end(); row += width) {
        for (size_t copy = 0; copy < count; ++copy) result.insert(result.end(), row, row + width);
    }
    return result;
}

// Advances all rows with log probabilities [rows * beams, vocab], which are added to those of the beams.
// Returns each beam's parent, as a row of the engine, and its token; finished rows repeat themselves.
std::pair<Ids, Ids> advance(std::vector<BeamState>& rows, std::vector<double>& scores,
                            const ModelRunner& runner) {
    std::pair<Ids, Ids> result;
    auto& [parents, tokens] = result;
    const size_t size = scores.size() / rows.size();
    for (size_t index = 0; index < rows.size(); ++index) {
        BeamState& row = rows[index];
        const auto first = static_cast<int64_t>(index * row.count);
        if (row.done) {
            for (size_t beam = 0; beam < row.count; ++beam) parents.push_back(first + beam);
            tokens.insert(tokens.end(), row.count, runner.pad_token_id());
            continue;
        }
        double* totals = scores.data() + index * size;
        for (size_t place = 0; place < size; ++place)
            totals[place] += row.scores[place / runner.vocab_size()];
        // Enough to leave `count` continuations even if every beam's end tokens rank first.
        const size_t wanted = std::max<size_t>(2, 1 + runner.num_stop_tokens()) * row.count;
        Ids places = top_k_ids(totals, static_cast<int64_t>(size), static_cast<int64_t>(wanted));
        places.resize(std::min(places.size(), wanted));  // drop ties with the last
        row.advance(totals, places, runner);
        for (const int64_t parent : row.parents) parents.push_back(first + parent);
        tokens.insert(tokens.end(), row.tokens.begin(), row.tokens.end());
    }
    return result;
}

}  // namespace

std::vector<Ids> beam_search(ModelRunner& runner, const std::vector<Ids>& prompts,
                             const GenerationParams& params, int64_t steps) {
    const size_t count = params.num_beams, batch = prompts.size();
    std::vector<BeamState> rows(batch, BeamState(params));
    SeenTokens seen(repeated(prompts, batch, count), runner.vocab_size(), params.repetition_penalty);
    std::vector<float> logits = repeated(runner.prefill(), batch, count);
    Ids first(batch);
    std::iota(first.begin(), first.end(), 0);
    runner.select(repeated(first, batch, count));
    for (int64_t step = 1;; ++step) {
        std::vector<double> scores = log_softmax(logits, runner.vocab_size());
        seen.apply_repetition_penalty(scores);
        const auto [parents, tokens] = advance(rows, scores, runner);
        const auto open =
            std::count_if(rows.begin(), rows.end(), [](const BeamState& row) { return !row.done; });
        if (open == 0 || step == steps) break;
        runner.select(parents);
        seen.select(parents);
        seen.add(tokens);
        logits = runner.decode(tokens, open);
    }
    std::vector<Ids> hypotheses;
    for (BeamState& row : rows) hypotheses.push_back(row.finish());
    return hypotheses;
}

}  // namespace paddle_glm
