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

// How ids and text differ from the SentencePiece model's: `Tokenizer.tokenizer_spec` in Python.
struct TokenizerSpec {
    int64_t pieces = 0;
    int64_t offset = 0;
    std::vector<std::pair<std::string, std::string>> spelled;
    std::map<int64_t, std::string> texts;
    std::string below_offset;
};

// Which position each token has: `Family.position_rule` in Python.
struct PositionRule {
    bool blank = false;  // otherwise positions count the real tokens
    int64_t start = 0;
    std::vector<int64_t> blanks;
    int64_t rows = 1;
    int64_t counts_on = -1;
};

// A trained prefix: a safetensors file of what each cache of a row holds before its prompt.
struct PrefixCache {
    std::string file;
    int64_t length = 0;
};

// What `paddle-glm export` says about a folder, `paddle_glm/backends/generation_meta.py`.
struct Meta {
    std::string model_prefix;
    std::string format;                    // what the graph is stored as: paddle or onnx
    std::vector<std::string> graph_files;  // the graph first, then its weights where apart
    bool quantised = false;                // weights are int8 or int4
    bool upcasts_weights = false;          // the graph makes wider floats of weights where it uses them
    int64_t vocab_size = 0;
    int64_t max_sequence_length = 0;
    std::vector<TensorMeta> token_inputs;  // inputs of every step, before the caches
    std::vector<TensorMeta> caches;
    PositionRule positions;
    PrefixCache prefix_cache;  // of length 0 where there is none
    Json chat_template;
    std::string tokenizer_file;
    TokenizerSpec tokenizer_spec;
    std::map<std::string, int64_t> special_tokens;
    std::vector<int64_t> stop_token_ids;
    int64_t pad_token_id = 0;
    GenerationParams sampling;
};

TokenizerSpec read_tokenizer_spec(const Json& value);

// Reads FOLDER/generation_meta.json (and from config.json whether weights are quantised) and checks that the
// files it names are whole. Throws InputError where one is missing or cut off, or the meta data is another
// version's.
Meta read_meta(const std::string& folder);

}  // namespace paddle_glm
