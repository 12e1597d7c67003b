#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace paddle_glm {

// Turns ids into pieces of text, never half a character; the pieces joined are `decode` of all ids.
// paddle_glm/generation/detokenizer.py says how.
class StreamingDetokenizer {
  public:
    using Decode = std::function<std::string(const std::vector<int64_t>&)>;

    explicit StreamingDetokenizer(Decode decode) : decode_(std::move(decode)) {}

    // Takes one more id; returns the text that is final so far, often empty.
    std::u32string push(int64_t id);
    // The rest, whole or not.
    std::u32string finish();

    const std::vector<int64_t>& ids() const { return ids_; }

  private:
    std::u32string decoded(size_t end) const;
    std::u32string emit(const std::u32string& text, size_t end);

    Decode decode_;
    std::vector<int64_t> ids_;
    size_t context_ = 0;  // where the tokens begin that are decoded again
    size_t emitted_ = 0;  // tokens before this one have been given out
};

}  // namespace paddle_glm
