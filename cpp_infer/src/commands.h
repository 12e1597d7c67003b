#pragma once

#include "options.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// The three things that paddle_glm_infer does with a session; each gives the time of all its answers.
Timing answer_prompt(Session& session, const std::string& prompt, const Options& options);
Timing answer_rows(Session& session, const Options& options);
Timing chat(Session& session, const Options& options);

// Times and memory, to standard error.
void print_benchmark(const Timing& timing, double load_seconds);

}  // namespace paddle_glm
