#include "stop_strings.h"

#include <algorithm>

namespace paddle_glm {
namespace {

// Length of the longest suffix of `text` that is a proper prefix of `stop`. Bytes do as well as characters:
// both texts are whole UTF-8.
size_t partial_length(const std::string& text, const std::string& stop) {
    for (size_t size = std::min(stop.size() - 1, text.size()); size > 0; --size) {
        if (text.compare(text.size() - size, size, stop, 0, size) == 0) return size;
    }
    return 0;
}

}  // namespace

std::string StopStrings::push(const std::string& piece) {
    if (stopped_) return {};
    std::string text = std::move(pending_) + piece;
    pending_.clear();
    size_t first = text.npos;
    size_t held = 0;
    for (const std::string& stop : strings_) {
        first = std::min(first, text.find(stop));
        held = std::max(held, partial_length(text, stop));
    }
    stopped_ = first != text.npos;
    if (stopped_) return text.substr(0, first);
    pending_ = text.substr(text.size() - held);
    text.resize(text.size() - held);
    return text;
}

std::string StopStrings::finish() {
    std::string rest;
    rest.swap(pending_);
    return rest;
}

}  // namespace paddle_glm
