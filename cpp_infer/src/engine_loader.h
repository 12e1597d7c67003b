#pragma once

#include <memory>

#include "engine.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// Opens the module of an engine and makes one. Throws InputError for an engine that is not there (naming
// those that are, and how to build it), that reads another format, or that cannot open the graph.
std::unique_ptr<Engine> load_engine(const EngineOptions& options, const std::string& format,
                                    const EngineConfig& config);

// The number of threads to compute with: `threads`, or OMP_NUM_THREADS, or all that may be used.
int usable_threads(int threads);

}  // namespace paddle_glm
