#pragma once

#include <optional>
#include <string>

#include "paddle_glm/session.h"
#include "rows.h"

namespace paddle_glm {

// The command line of paddle_glm_infer; what was not given is empty.
struct Options {
    std::string model_dir;
    std::optional<std::string> prompt;
    std::string input_file;
    std::string output_file;
    std::string system;
    Columns columns;  // of the input file's rows
    bool chat = false;
    bool benchmark = false;
    bool help = false;
    size_t batch_size = 1;
    EngineOptions engine;

    std::optional<bool> do_sample, early_stopping;
    std::optional<double> temperature, top_p, repetition_penalty, length_penalty;
    std::optional<int64_t> top_k, num_beams, max_length, max_new_tokens;
    std::optional<uint64_t> seed;

    // `defaults` with the flags that were given: greedy unless a flag that only sampling heeds is there,
    // or, in a chat, the model's own way; beams do not sample. Throws InputError for invalid values.
    GenerationParams params(GenerationParams defaults) const;
};

// Throws InputError naming a flag that is unknown, lacks its value, or contradicts another.
Options parse_options(int count, const char* const* arguments);

std::string usage();

}  // namespace paddle_glm
