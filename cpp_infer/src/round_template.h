#pragma once

#include <string>
#include <vector>

#include "template.h"

namespace paddle_glm {

// ChatTemplate with rounds in one text (ChatGLM-6B, ChatGLM2-6B); a system message precedes the last
// question.
class RoundTemplate : public ChatTemplate {
  public:
    explicit RoundTemplate(const Json& values);

    std::vector<int64_t> render(const Tokenizer& tokenizer,
                                const std::vector<Message>& messages) const override;
    std::vector<Message> parse(const std::u32string& text, bool partial) const override;

    // The text of a conversation that ends with a question.
    std::string prompt(const std::vector<Message>& messages) const;

  private:
    std::vector<std::string> suffix_tokens_;
    int64_t first_round_;
    std::string question_;
    std::string answer_;
    std::string lone_question_;
};

}  // namespace paddle_glm
