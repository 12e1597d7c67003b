#pragma once

#include <chrono>

#include "options.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// The three modes of paddle_glm_infer; each returns the total time of its answers.
Timing answer_prompt(Session& session, const std::string& prompt, const Options& options);
Timing answer_rows(Session& session, const Options& options);
Timing chat(Session& session, const Options& options);

// Time and memory of opening a folder.
struct LoadStats {
    double seconds;
    double megabytes;
};
LoadStats load_stats_since(std::chrono::steady_clock::time_point start);

// Prints times and memory to standard error.
void print_benchmark(const Timing& timing, const LoadStats& loaded);

}  // namespace paddle_glm
