#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace paddle_glm {

// The random numbers of numpy.random.default_rng(seed): O'Neill's PCG64 (XSL RR 128/64), seeded through
// her seed_seq as numpy's SeedSequence does, so that a seed gives the answer that it gives in Python.
class Random {
  public:
    // Without a seed, one is taken from the system.
    explicit Random(std::optional<uint64_t> seed);

    // The next number, evenly distributed over [0, 1).
    double next();

  private:
    // pedantic: C++ has no 128-bit integer, but every compiler that Paddle has wheels for does.
    __extension__ using Uint128 = unsigned __int128;

    void advance();

    Uint128 state_ = 0;
    Uint128 increment_ = 0;
};

}  // namespace paddle_glm
