// C functions over the C++ program's Paddle engine, for benchmarks/peers/cpp.py.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "engine_loader.h"
#include "meta.h"
#include "runner.h"

namespace {

struct Opened {
    paddle_glm::Meta meta;
    std::unique_ptr<paddle_glm::Engine> engine;
    paddle_glm::Timing timing;
    std::optional<paddle_glm::ModelRunner> runner;
};

int64_t give(const std::vector<float>& logits, float* out) {
    std::copy(logits.begin(), logits.end(), out);
    return static_cast<int64_t>(logits.size());
}

}  // namespace

extern "C" {

// The folder of an export; null for one that cannot be opened, after a message.
void* bench_open(const char* folder, int threads) try {
    auto opened = std::make_unique<Opened>();
    opened->meta = paddle_glm::read_meta(folder);
    const paddle_glm::Meta& meta = opened->meta;
    paddle_glm::EngineConfig config;
    config.graph_file = std::string(folder) + "/" + meta.graph_files.at(0);
    config.weights_file = std::string(folder) + "/" + meta.graph_files.at(1);
    config.token_inputs = meta.token_inputs;
    for (const auto& cache : meta.caches) config.caches.push_back({cache, {}});
    config.max_length = meta.max_sequence_length;
    config.quantised = meta.quantised;
    config.upcasts_weights = meta.upcasts_weights;
    config.operators = meta.operators;
    config.threads = threads;
    opened->engine = paddle_glm::load_engine({}, meta.format, config);
    return opened.release();
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return nullptr;
}

// Both write the last token's logits, [vocab], and return how many.
int64_t bench_prefill(void* handle, const int64_t* ids, int64_t count, float* logits) {
    auto& opened = *static_cast<Opened*>(handle);
    const std::vector<std::vector<int64_t>> prompts{{ids, ids + count}};
    opened.runner.emplace(*opened.engine, opened.meta, prompts, opened.timing);
    return give(opened.runner->prefill(), logits);
}

int64_t bench_decode(void* handle, int64_t token, float* logits) {
    return give(static_cast<Opened*>(handle)->runner->decode({token}, 1), logits);
}
}
