#pragma once

#include <string>
#include <vector>

#include "template.h"

namespace paddle_glm {

// Pieces of the model's text to pieces of the visible text; joined, they are that of the whole answer.
// Held back is what the next characters may still change: `StreamingResponseParser` in Python.
class StreamingResponseParser {
  public:
    explicit StreamingResponseParser(const Template& chat_template) : template_(chat_template) {}

    std::string push(const std::u32string& text);
    std::string finish();
    std::vector<Message> messages() const { return template_.parse(raw_, false); }

  private:
    std::string emit(const std::u32string& visible);

    const Template& template_;
    std::u32string raw_;
    size_t emitted_ = 0;  // characters
};

}  // namespace paddle_glm
