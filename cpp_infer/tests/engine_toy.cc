// ToyEngine as a module, to try everything around an engine (and sanitizers) without Paddle. The graph file
// holds nothing but the size of the vocabulary.

#include <fstream>
#include <stdexcept>

#include "toy_engine.h"

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    std::ifstream file(config.graph_file);
    int64_t vocab = 0;
    if (!(file >> vocab) || vocab < 1) throw std::runtime_error("the file must hold a vocabulary size");
    return new paddle_glm::ToyEngine(vocab);
}
