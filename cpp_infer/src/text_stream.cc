#include "text_stream.h"

#include "utf8.h"

namespace paddle_glm {
namespace {

constexpr char32_t kReplacementCharacter = 0xFFFD;  // decoders emit it for incomplete characters
constexpr size_t kMaxPendingBytes = 3;              // maximum bytes of an incomplete character

}  // namespace

std::u32string StreamingDetokenizer::push(int64_t id) {
    ids_.push_back(id);
    const std::u32string text = decoded(ids_.size());
    if (text.empty() || text.back() != kReplacementCharacter) return emit(text, ids_.size());
    // Invalid bytes must not be withheld forever: all but the last three are final.
    if (ids_.size() > emitted_ + kMaxPendingBytes &&
        ends_with(text, std::u32string(kMaxPendingBytes + 1, kReplacementCharacter))) {
        const size_t end = ids_.size() - kMaxPendingBytes;
        const std::u32string final_text = decoded(end);
        if (final_text + std::u32string(kMaxPendingBytes, kReplacementCharacter) == text)
            return emit(final_text, end);
    }
    return {};
}

std::u32string StreamingDetokenizer::finish() { return emit(decoded(ids_.size()), ids_.size()); }

std::u32string StreamingDetokenizer::decoded(size_t end) const {
    return to_code_points(decode_({ids_.begin() + context_, ids_.begin() + end}));
}

std::u32string StreamingDetokenizer::emit(const std::u32string& text, size_t end) {
    const size_t known = decoded(emitted_).size();
    const std::u32string piece = known < text.size() ? text.substr(known) : std::u32string();
    // Tokens that decode to spaces only would lose them at the start of the window.
    if (piece.find_first_not_of(U' ') != piece.npos) context_ = emitted_;
    emitted_ = end;
    return piece;
}

}  // namespace paddle_glm
