#include "tokenizer.h"

#include <sentencepiece_processor.h>

#include <utility>

#include "paddle_glm/error.h"
#include "utf8.h"

namespace paddle_glm {

Tokenizer::Tokenizer(const std::string& model_file, TokenizerSpec tokenizer_spec,
                     std::map<std::string, int64_t> special_tokens)
    : model_(std::make_unique<sentencepiece::SentencePieceProcessor>()),
      spec_(std::move(tokenizer_spec)),
      special_tokens_(std::move(special_tokens)) {
    if (!model_->Load(model_file).ok()) {
        throw InputError(model_file + " is not a whole SentencePiece model: copy or export the folder again");
    }
    if (model_->GetPieceSize() != spec_.pieces) {
        throw InputError(model_file + " has " + std::to_string(model_->GetPieceSize()) +
                         " pieces, the exported tokenizer has " + std::to_string(spec_.pieces) +
                         ": it belongs to another model");
    }
}

Tokenizer::~Tokenizer() = default;

std::vector<int64_t> Tokenizer::encode(const std::string& text) const {
    if (!is_utf8(text)) throw InputError("a text is not valid UTF-8: convert it first");
    std::string spelled = text;
    for (const auto& [written, piece] : spec_.spelled) replace_all(spelled, written, piece);
    std::vector<int> ids;
    if (const auto status = model_->Encode(spelled, &ids); !status.ok()) {
        throw InputError("a text cannot be tokenized: " + status.ToString());
    }
    std::vector<int64_t> result(ids.begin(), ids.end());
    for (int64_t& id : result) id += spec_.offset;
    return result;
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids) const {
    std::vector<std::string> tokens;
    tokens.reserve(ids.size());
    for (const int64_t id : ids) tokens.push_back(token(id));
    std::string text;
    if (const auto status = model_->Decode(tokens, &text); !status.ok()) {
        throw InputError("tokens cannot be decoded: " + status.ToString());
    }
    for (const auto& [written, piece] : spec_.spelled) replace_all(text, piece, written);
    return text;
}

int64_t Tokenizer::command(const std::string& name) const {
    const auto found = special_tokens_.find(name);
    if (found == special_tokens_.end()) {
        throw InputError("the exported tokenizer has no special token " + name + ": export the model again");
    }
    return found->second;
}

std::string Tokenizer::token(int64_t id) const {
    if (const auto found = spec_.texts.find(id); found != spec_.texts.end()) return found->second;
    if (id < 0 || id >= spec_.offset + spec_.pieces) return "";
    if (id >= spec_.offset) return model_->IdToPiece(static_cast<int>(id - spec_.offset));
    std::string text = spec_.below_offset;
    replace_all(text, "{index}", std::to_string(id));
    return text;
}

}  // namespace paddle_glm
