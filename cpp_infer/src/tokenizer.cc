#include "tokenizer.h"

#include <sentencepiece_processor.h>

#include <utility>

#include "paddle_glm/error.h"
#include "utf8.h"

namespace paddle_glm {

Tokenizer::Tokenizer(const std::string& model_file, Spelling spelling,
                     std::map<std::string, int64_t> special_tokens)
    : model_(std::make_unique<sentencepiece::SentencePieceProcessor>()),
      spelling_(std::move(spelling)),
      special_tokens_(std::move(special_tokens)) {
    if (!model_->Load(model_file).ok()) {
        throw InputError(model_file + " is not a whole SentencePiece model: copy or export the folder again");
    }
    if (model_->GetPieceSize() != spelling_.pieces) {
        throw InputError(model_file + " has " + std::to_string(model_->GetPieceSize()) +
                         " pieces, the exported tokenizer has " + std::to_string(spelling_.pieces) +
                         ": it belongs to another model");
    }
}

Tokenizer::~Tokenizer() = default;

std::vector<int64_t> Tokenizer::encode(const std::string& text) const {
    if (!is_utf8(text)) throw InputError("a text is not valid UTF-8: convert it first");
    std::string spelled = text;
    for (const auto& [written, piece] : spelling_.spelled) replace_all(spelled, written, piece);
    std::vector<int> ids;
    if (const auto status = model_->Encode(spelled, &ids); !status.ok()) {
        throw InputError("a text cannot be tokenized: " + status.ToString());
    }
    std::vector<int64_t> result(ids.begin(), ids.end());
    for (int64_t& id : result) id += spelling_.offset;
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
    for (const auto& [written, piece] : spelling_.spelled) replace_all(text, piece, written);
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
    if (const auto found = spelling_.texts.find(id); found != spelling_.texts.end()) return found->second;
    if (id < 0 || id >= spelling_.offset + spelling_.pieces) return "";
    if (id >= spelling_.offset) return model_->IdToPiece(static_cast<int>(id - spelling_.offset));
    std::string text = spelling_.below_offset;
    replace_all(text, "{index}", std::to_string(id));
    return text;
}

}  // namespace paddle_glm
