#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace paddle_glm {

// The generator of numpy.random.default_rng(seed): O'Neill's PCG64 (XSL RR 128/64), seeded like numpy's
// SeedSequence, so that a seed gives the same tokens as in Python.
class Random {
  public:
    // Without a seed, the system provides one.
    explicit Random(std::optional<uint64_t> seed);

    // The next number, uniform over [0, 1).
    double next();

  private:
    // pedantic: not standard C++, but available in every compiler that Paddle supports.
    __extension__ using Uint128 = unsigned __int128;

    void advance();

    Uint128 state_ = 0;
    Uint128 increment_ = 0;
};

}  // namespace paddle_glm
