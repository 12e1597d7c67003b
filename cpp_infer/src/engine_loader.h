#pragma once

#include <memory>

#include "engine.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// Loads an engine's module and creates the engine. Throws InputError if the engine is not installed (listing
// those that are, and how to build it), reads another format, or cannot open the graph, and without the
// library of native operators that the graph needs.
std::unique_ptr<Engine> load_engine(const EngineOptions& options, const std::string& format,
                                    EngineConfig config);

// The number of threads: `threads` if positive, else OMP_NUM_THREADS, else all available.
int usable_threads(int threads);

}  // namespace paddle_glm
