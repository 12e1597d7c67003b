#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "meta.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace paddle_glm {

// Tokenizer with the same results as the Python one.
class Tokenizer {
  public:
    // Throws InputError for an invalid SentencePiece model, or another than the exported one.
    Tokenizer(const std::string& model_file, TokenizerSpec tokenizer_spec,
              std::map<std::string, int64_t> special_tokens);
    ~Tokenizer();

    // Special tokens spelled in the text are treated as text. Throws InputError for invalid UTF-8.
    std::vector<int64_t> encode(const std::string& text) const;
    std::string decode(const std::vector<int64_t>& ids) const;
    // The id of a special token; throws InputError for an unknown name.
    int64_t command(const std::string& name) const;

  private:
    std::string token(int64_t id) const;

    std::unique_ptr<sentencepiece::SentencePieceProcessor> model_;
    TokenizerSpec spec_;
    std::map<std::string, int64_t> special_tokens_;
};

}  // namespace paddle_glm
