#pragma once

#include <string>
#include <vector>

#include "template.h"

namespace paddle_glm {

// Incremental response parser: pieces of the model's text -> pieces of visible text. Text that later
// characters may still change is withheld: `StreamingResponseParser` in Python.
class StreamingResponseParser {
  public:
    explicit StreamingResponseParser(const ChatTemplate& chat_template) : template_(chat_template) {}

    std::string push(const std::u32string& text);
    std::string finish();
    std::vector<Message> messages() const { return template_.parse(raw_, false); }

  private:
    std::string emit(const std::u32string& visible);

    const ChatTemplate& template_;
    std::u32string raw_;
    size_t emitted_ = 0;  // characters
};

}  // namespace paddle_glm
