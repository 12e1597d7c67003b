#pragma once

#include <map>
#include <string>
#include <vector>

#include "template.h"

namespace paddle_glm {

// ChatTemplate with roles (ChatGLM3-6B): a special token per message, a header line, then the text.
class RoleTemplate : public ChatTemplate {
  public:
    explicit RoleTemplate(const Json& values);

    std::vector<int64_t> render(const Tokenizer& tokenizer,
                                const std::vector<Message>& messages) const override;
    std::vector<Message> parse(const std::u32string& text, bool partial) const override;

  private:
    const std::string& role_token(const std::string& role) const;
    Message parse_one(const std::u32string& text) const;

    std::map<std::string, std::string> roles_;
    std::string header_;
    std::string reply_role_;
};

}  // namespace paddle_glm
