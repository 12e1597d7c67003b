#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paddle_glm {

// The cache of one layer's keys or values; -1 in `shape` is batch or length. `first` is what a row's cache
// holds before its prompt, [key/value heads, first_length, head_dim]; empty without a prefix.
struct CacheSpec {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
    std::vector<float> first = {};
};

struct EngineConfig {
    std::string graph_file;
    std::string weights_file;
    std::vector<CacheSpec> caches;
    int64_t first_length = 0;  // tokens of a trained prefix
    int threads = 1;
};

// An int64 input of a step, borrowed for the call.
struct EngineInput {
    const char* name;
    const std::vector<int64_t>* shape;
    const std::vector<int64_t>* values;
};

// Computes steps of an exported graph and owns the cache. Implementations are modules of their own, opened
// at run time, so that their libraries' symbols do not meet those of SentencePiece (both hold protobuf).
class Engine {
  public:
    virtual ~Engine() = default;

    // Makes the cache what it is before a prompt, for `batch` rows: empty, or the prefix.
    virtual void reset(int64_t batch) = 0;
    // One step over inputs and cache, which grows; float32 logits of the last position, [batch, vocab].
    virtual std::vector<float> run(const std::vector<EngineInput>& inputs) = 0;
    // Row i of the cache becomes what row rows[i] was.
    virtual void select(const std::vector<int64_t>& rows) = 0;
};

// What a module exports under kMakeEngine. It throws std::exception for what it cannot open.
using MakeEngine = Engine*(const EngineConfig&);
constexpr const char* kMakeEngine = "paddle_glm_make_engine";

}  // namespace paddle_glm
