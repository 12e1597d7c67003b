#include "response.h"

#include "utf8.h"

namespace paddle_glm {

std::string ResponseStream::push(const std::u32string& text) {
    raw_ += text;
    const std::u32string visible = to_code_points(visible_text(template_.parse(raw_, true)));
    return give(visible.substr(0, visible.size() - template_.undecided(visible)));
}

std::string ResponseStream::finish() { return give(to_code_points(visible_text(messages()))); }

std::string ResponseStream::give(const std::u32string& visible) {
    if (visible.size() <= given_) return {};
    const std::u32string piece = visible.substr(given_);
    given_ = visible.size();
    return to_utf8(piece);
}

}  // namespace paddle_glm
