#pragma once

#include <string>
#include <vector>

#include "engine.h"

namespace paddle_glm {

// A language model made of a hash: logits depend on all real tokens of a row and on nothing else, exactly
// as those of ToyBackend in tests/golden/make_golden.py. Needs no graph and no library.
class ToyEngine : public Engine {
  public:
    explicit ToyEngine(int64_t vocab) : vocab_(vocab) {}

    void reset(int64_t batch) override { state_.assign(batch, 14695981039346656037U); }

    std::vector<float> run(const std::vector<EngineInput>& inputs) override {
        const std::vector<int64_t>&ids = *inputs[0].values, &mask = *inputs[2].values;
        const size_t count = inputs[0].shape->at(1), total = inputs[2].shape->at(1);
        std::vector<float> logits;
        for (size_t row = 0; row < state_.size(); ++row) {
            for (size_t place = 0; place < count; ++place) {
                if (mask[(row + 1) * total - count + place] == 0) continue;
                state_[row] =
                    (state_[row] ^ static_cast<uint64_t>(ids[row * count + place] + 1)) * 1099511628211U;
            }
            for (int64_t id = 0; id < vocab_; ++id) logits.push_back(logit(state_[row], id));
        }
        return logits;
    }

    void select(const std::vector<int64_t>& rows) override {
        std::vector<uint64_t> chosen;
        for (const int64_t row : rows) chosen.push_back(state_[row]);
        state_ = chosen;
    }

  private:
    // In steps of 2^-21 over [-4, 4), which float32 holds exactly.
    static float logit(uint64_t state, int64_t id) {
        uint64_t value = state + static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15U;
        value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9U;
        return static_cast<float>(value >> 40) / 2097152.0F - 4.0F;
    }

    int64_t vocab_;
    std::vector<uint64_t> state_;
};

}  // namespace paddle_glm
