#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paddle_glm {

// An input or output of the graph; -1 in `shape` is a size that each step chooses.
struct TensorMeta {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
};

// The cache of one layer's keys or values: -1 in `shape` is batch or length. `prefix_values` is what a row's
// cache holds before its prompt, [key/value heads, prefix_length, head_dim]; empty without a prefix.
struct CacheSpec : TensorMeta {
    std::vector<float> prefix_values = {};
};

struct EngineConfig {
    std::string graph_file;
    std::string weights_file;              // empty where the graph's file holds them
    std::vector<TensorMeta> token_inputs;  // what EngineInputs come for, in their order
    std::vector<CacheSpec> caches;
    int64_t prefix_length = 0;     // tokens of a trained prefix
    int64_t max_length = 0;        // most tokens of a row
    bool quantised = false;        // weights are small integers
    bool upcasts_weights = false;  // the graph makes wider floats of weights where it uses them
    int threads = 1;
    std::string backend;  // what computes below an engine that has several; empty: its own choice
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
    // One step over inputs (ids, positions, attention mask) and cache, which grows; float32 logits of the
    // last position, [batch, vocab].
    virtual std::vector<float> run(const std::vector<EngineInput>& inputs) = 0;
    // Row i of the cache becomes what row rows[i] was.
    virtual void select(const std::vector<int64_t>& rows) = 0;
};

// What a module exports under kMakeEngineSymbol. It throws std::exception for what it cannot open.
using MakeEngine = Engine*(const EngineConfig&);
constexpr const char* kMakeEngineSymbol = "paddle_glm_make_engine";

}  // namespace paddle_glm
