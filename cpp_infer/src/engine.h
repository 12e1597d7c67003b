#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paddle_glm {

// An input or output of the graph; -1 in `shape` is a dynamic dimension.
struct TensorMeta {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
};

// The cache of one layer's keys or values; -1 in `shape` is the batch size or the length. `prefix_values`:
// the cache's initial content, [key/value heads, prefix_length, head_dim]; empty without a prefix.
struct CacheSpec : TensorMeta {
    std::vector<float> prefix_values = {};
};

struct EngineConfig {
    std::string graph_file;
    std::string weights_file;              // empty if the graph's file holds them
    std::vector<TensorMeta> token_inputs;  // inputs computed from tokens, in order
    std::vector<CacheSpec> caches;
    int64_t prefix_length = 0;        // length of the trained prefix
    int64_t max_length = 0;           // maximum tokens of a row
    std::string target = "portable";  // the engine whose products an ONNX graph is written for, or portable
    bool quantised = false;           // weights are int8 or int4
    bool upcasts_weights = false;     // the graph upcasts weights in every step
    int threads = 1;
    int operators = 0;            // version of the native operators that the graph needs; 0: none
    std::string kernels_library;  // the library that has them
    std::string backend;          // the engine's own backend, if it has several; empty: its default
};

// An int64 input of a step; the buffer is borrowed during the call.
struct EngineInput {
    const char* name;
    const std::vector<int64_t>* shape;
    const std::vector<int64_t>* values;
};

// Runs steps of an exported graph and owns the KV cache. Implementations are separate modules, opened with
// dlopen, so that their libraries' symbols do not clash with SentencePiece's (both contain protobuf).
class Engine {
  public:
    virtual ~Engine() = default;

    // Resets the cache for `batch` rows: empty, or the prefix.
    virtual void reset(int64_t batch) = 0;
    // One step over the inputs (ids, positions, attention mask) and the cache, which it extends; returns the
    // float32 logits of the last position, [batch, vocab].
    virtual std::vector<float> run(const std::vector<EngineInput>& inputs) = 0;
    // Reorders the cache: row i becomes the former row rows[i].
    virtual void select(const std::vector<int64_t>& rows) = 0;
};

// The function that a module exports as kMakeEngineSymbol. Throws std::exception if it cannot open the graph.
using MakeEngine = Engine*(const EngineConfig&);
constexpr const char* kMakeEngineSymbol = "paddle_glm_make_engine";

}  // namespace paddle_glm
