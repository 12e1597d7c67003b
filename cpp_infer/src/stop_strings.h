#pragma once

#include <string>
#include <vector>

namespace paddle_glm {

// Passes pieces of an answer through up to the first stop string, exclusive; a possible start of one is
// withheld. `StopStringChecker` in Python.
class StopStrings {
  public:
    explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

    // Takes more text; returns what has become final, and nothing after a stop string.
    std::string push(const std::string& piece);
    // The withheld text, if the answer ended without a stop string.
    std::string finish();

    bool stopped() const { return stopped_; }

  private:
    std::vector<std::string> strings_;
    std::string pending_;
    bool stopped_ = false;
};

}  // namespace paddle_glm
