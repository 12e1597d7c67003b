#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "meta.h"
#include "paddle_glm/session.h"
#include "tokenizer.h"

namespace paddle_glm {

// Chat template: `ChatTemplate` of paddle_glm/chat_template.py, built from its JSON.
class ChatTemplate {
  public:
    explicit ChatTemplate(const Json& values);
    virtual ~ChatTemplate() = default;

    // The prompt for the next answer. Throws InputError for invalid roles.
    virtual std::vector<int64_t> render(const Tokenizer& tokenizer,
                                        const std::vector<Message>& messages) const = 0;

    // Parses the model's text into messages; with `partial`, a text that may still grow.
    virtual std::vector<Message> parse(const std::u32string& text, bool partial) const = 0;

    // How many trailing characters of a visible text may still be replaced.
    size_t pending_length(const std::u32string& visible) const;

  protected:
    using Pairs = std::vector<std::pair<std::u32string, std::u32string>>;

    // The model's text with display replacements applied.
    std::string process_response(const std::u32string& text) const;
    std::vector<int64_t> prefix(const Tokenizer& tokenizer) const;

    std::string name_;
    std::vector<std::string> prefix_tokens_;

  private:
    Pairs replacements_;
    Pairs wide_punctuation_;
};

// Throws InputError for an unknown layout.
std::unique_ptr<ChatTemplate> make_template(const Json& values);

// The visible text of messages.
std::string visible_text(const std::vector<Message>& messages);

}  // namespace paddle_glm
