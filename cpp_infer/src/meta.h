#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"
#include "paddle_glm/params.h"

namespace paddle_glm {

using Json = nlohmann::ordered_json;  // keeps the order of keys, as Python does

// How ids and text map to SentencePiece pieces: `Tokenizer.tokenizer_spec` in Python.
struct TokenizerSpec {
    int64_t pieces = 0;
    int64_t offset = 0;
    std::vector<std::pair<std::string, std::string>> spelled;
    std::map<int64_t, std::string> texts;
    std::string below_offset;
};

// How positions are computed: `Family.position_rule` in Python.
struct PositionRule {
    bool blank = false;  // otherwise positions count real tokens
    int64_t start = 0;
    std::vector<int64_t> blanks;
    int64_t rows = 1;
    int64_t counts_on = -1;
};

// A trained prefix: a safetensors file with the initial content of every row's cache.
struct PrefixCache {
    std::string file;
    int64_t length = 0;
};

// Metadata of an exported folder: `paddle_glm/backends/generation_meta.py`.
struct Meta {
    std::string model_prefix;
    std::string format;                    // graph format: paddle or onnx
    std::vector<std::string> graph_files;  // the graph, then its weights if separate
    std::string target;                    // of an ONNX graph: portable, onnxruntime or openvino
    bool quantised = false;                // weights are int8 or int4
    bool upcasts_weights = false;          // the graph upcasts weights in every step
    int operators = 0;                     // version of the native operators that the graph needs; 0: none
    int64_t vocab_size = 0;
    int64_t max_sequence_length = 0;
    std::vector<TensorMeta> token_inputs;  // inputs of every step, before the caches
    std::vector<TensorMeta> caches;
    PositionRule positions;
    PrefixCache prefix_cache;  // length 0 if there is none
    Json chat_template;
    std::string tokenizer_file;
    TokenizerSpec tokenizer_spec;
    std::map<std::string, int64_t> special_tokens;
    std::vector<int64_t> stop_token_ids;
    int64_t pad_token_id = 0;
    GenerationParams sampling;
};

TokenizerSpec read_tokenizer_spec(const Json& value);

// Reads FOLDER/generation_meta.json (and from config.json whether weights are quantised) and checks the sizes
// of the files it names. Throws InputError for a missing or truncated file and for metadata of another
// version.
Meta read_meta(const std::string& folder);

}  // namespace paddle_glm
