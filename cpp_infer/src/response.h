#pragma once

#include <string>
#include <vector>

#include "template.h"

namespace paddle_glm {

// Pieces of the model's text to pieces of the visible text; joined, they are that of the whole answer.
// Held back is what the next characters may still change: `ResponseStream` in Python.
class ResponseStream {
  public:
    explicit ResponseStream(const Template& chat_template) : template_(chat_template) {}

    std::string push(const std::u32string& text);
    std::string finish();
    std::vector<Message> messages() const { return template_.parse(raw_, false); }

  private:
    std::string give(const std::u32string& visible);

    const Template& template_;
    std::u32string raw_;
    size_t given_ = 0;  // characters
};

}  // namespace paddle_glm
