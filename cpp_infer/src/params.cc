#include "paddle_glm/params.h"

#include <sstream>
#include <string>

#include "paddle_glm/error.h"

namespace paddle_glm {
namespace {

// Logits divided by less than this may overflow.
constexpr double kMinDivisor = 1e-6;

template <class Value>
void require(bool good, const char* name, const Value& value, const char* expected) {
    if (good) return;
    std::ostringstream text;
    text << name << " is " << value << ": expected " << expected;
    throw InputError(text.str());
}

}  // namespace

void GenerationParams::check() const {
    require(temperature >= kMinDivisor, "temperature", temperature,
            "a number from 1e-06 on (for the most likely token, turn sampling off)");
    require(top_k >= 0, "top_k", top_k, "0 (off) or a positive number");
    require(top_p > 0 && top_p <= 1, "top_p", top_p, "a number above 0 and at most 1");
    require(repetition_penalty >= kMinDivisor, "repetition_penalty", repetition_penalty,
            "a number from 1e-06 on (1 is off)");
    require(num_beams >= 1, "num_beams", num_beams, "at least 1");
    require(num_beams == 1 || !do_sample, "num_beams", num_beams, "1 with sampling (or turn sampling off)");
    require(max_length >= 1, "max_length", max_length, "at least 1");
    require(max_new_tokens.value_or(1) >= 1, "max_new_tokens", max_new_tokens.value_or(1), "at least 1");
}

}  // namespace paddle_glm
