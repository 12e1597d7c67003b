#pragma once

#include <optional>
#include <string>

#include "paddle_glm/session.h"
#include "rows.h"

namespace paddle_glm {

// Flags of --serve: those of `paddle-glm serve`.
struct ServeOptions {
    std::string host = "127.0.0.1";
    int port = 8000;
    std::string api_key;            // empty: PADDLE_GLM_API_KEY, else none
    std::string served_model_name;  // empty: the folder's
    size_t max_waiting = 64;
    size_t max_request_bytes = size_t(1) << 20;
    int shutdown_timeout = 30;  // seconds
};

// Command line of paddle_glm_infer; flags that were not given are empty.
struct Options {
    std::string model_dir;
    std::optional<std::string> prompt;
    std::string input_file;
    std::string output_file;
    std::string system;
    Columns columns;  // of the input file's rows
    bool chat = false;
    bool serve = false;
    ServeOptions server;
    bool benchmark = false;
    bool help = false;
    size_t batch_size = 1;
    EngineOptions engine;

    std::optional<bool> do_sample, early_stopping;
    std::optional<double> temperature, top_p, repetition_penalty, length_penalty;
    std::optional<int64_t> top_k, num_beams, max_length, max_new_tokens;
    std::optional<uint64_t> seed;

    // `defaults` updated with the given flags: greedy unless a sampling-only flag is given; a chat and a
    // server keep the model's default; beam search does not sample. Throws InputError for invalid values.
    GenerationParams params(GenerationParams defaults) const;
};

// Throws InputError for a flag that is unknown, lacks its value, or contradicts another.
Options parse_options(int count, const char* const* arguments);

std::string usage();

}  // namespace paddle_glm
