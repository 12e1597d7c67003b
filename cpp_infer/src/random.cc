#include "random.h"

#include <random>

namespace paddle_glm {
namespace {

using Pool = std::array<uint32_t, 4>;

// The hash of seed_seq: a multiplicative hash whose constant changes with every word.
class Hash {
  public:
    Hash(uint32_t constant, uint32_t factor) : constant_(constant), factor_(factor) {}

    uint32_t operator()(uint32_t value) {
        value ^= constant_;
        constant_ *= factor_;
        value *= constant_;
        return value ^ value >> 16;
    }

  private:
    uint32_t constant_;
    uint32_t factor_;
};

Pool mix_seed(uint64_t seed) {
    Hash hash(0x43b0d7e5, 0x931e8875);
    Pool pool{};
    const Pool words{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
    for (size_t index = 0; index < pool.size(); ++index) pool[index] = hash(words[index]);
    for (size_t from = 0; from < pool.size(); ++from) {
        for (size_t to = 0; to < pool.size(); ++to) {
            if (from == to) continue;
            const uint32_t value = 0xca01f9ddU * pool[to] - 0x4973f715U * hash(pool[from]);
            pool[to] = value ^ value >> 16;
        }
    }
    return pool;
}

std::array<uint64_t, 4> seed_words(uint64_t seed) {
    const Pool pool = mix_seed(seed);
    Hash hash(0x8b51f9dd, 0x58f38ded);
    std::array<uint64_t, 4> words{};
    for (size_t index = 0; index < 2 * words.size(); ++index) {
        words[index / 2] |= static_cast<uint64_t>(hash(pool[index % pool.size()])) << 32 * (index % 2);
    }
    return words;
}

uint64_t system_seed() {
    std::random_device device;
    return static_cast<uint64_t>(device()) << 32 | device();
}

}  // namespace

Random::Random(std::optional<uint64_t> seed) {
    const auto words = seed_words(seed ? *seed : system_seed());
    increment_ = (static_cast<Uint128>(words[2]) << 64 | words[3]) << 1 | 1;
    advance();
    state_ += static_cast<Uint128>(words[0]) << 64 | words[1];
    advance();
}

double Random::next() {
    advance();
    const auto high = static_cast<uint64_t>(state_ >> 64);
    const uint64_t value = high ^ static_cast<uint64_t>(state_);
    const unsigned turn = high >> 58;
    const uint64_t bits = value >> turn | value << (-turn & 63U);
    return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

void Random::advance() {
    constexpr Uint128 factor = static_cast<Uint128>(0x2360ed051fc65da4) << 64 | 0x4385df649fccf645;
    state_ = state_ * factor + increment_;
}

}  // namespace paddle_glm
