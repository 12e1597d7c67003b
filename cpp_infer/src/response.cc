#include "response.h"

#include "utf8.h"

namespace paddle_glm {

std::string StreamingResponseParser::push(const std::u32string& text) {
    raw_ += text;
    const std::u32string visible = to_code_points(visible_text(template_.parse(raw_, true)));
    return emit(visible.substr(0, visible.size() - template_.pending_length(visible)));
}

std::string StreamingResponseParser::finish() { return emit(to_code_points(visible_text(messages()))); }

std::string StreamingResponseParser::emit(const std::u32string& visible) {
    if (visible.size() <= emitted_) return {};
    const std::u32string piece = visible.substr(emitted_);
    emitted_ = visible.size();
    return to_utf8(piece);
}

}  // namespace paddle_glm
