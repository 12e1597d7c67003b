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

// How a model's conversations are written: `Template` of paddle_glm/chat_template.py, made from its data.
class Template {
  public:
    explicit Template(const Json& values);
    virtual ~Template() = default;

    // The prompt that asks for the next answer. Throws InputError for roles that do not fit.
    virtual std::vector<int64_t> render(const Tokenizer& tokenizer,
                                        const std::vector<Message>& messages) const = 0;

    // The model's text to messages; with `partial`, one that may still grow, those that have begun to show.
    virtual std::vector<Message> parse(const std::u32string& text, bool partial) const = 0;

    // How many characters at the end of a visible text may still be replaced by what follows them.
    size_t pending_length(const std::u32string& visible) const;

  protected:
    using Pairs = std::vector<std::pair<std::u32string, std::u32string>>;

    // A text of the model as a reader is to see it.
    std::string clean(const std::u32string& text) const;
    std::vector<int64_t> prefix(const Tokenizer& tokenizer) const;

    std::string name_;
    std::vector<std::string> prefix_tokens_;

  private:
    Pairs replacements_;
    Pairs wide_punctuation_;
};

// Throws InputError for a layout that this program does not know.
std::unique_ptr<Template> make_template(const Json& values);

// What a reader of the messages sees.
std::string visible_text(const std::vector<Message>& messages);

}  // namespace paddle_glm
