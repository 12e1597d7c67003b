#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace paddle_glm {

// Incremental detokenizer: ids -> pieces of text that never end inside a character, as
// paddle_glm/generation/detokenizer.py.
class StreamingDetokenizer {
  public:
    using Decode = std::function<std::string(const std::vector<int64_t>&)>;

    explicit StreamingDetokenizer(Decode decode) : decode_(std::move(decode)) {}

    // Takes one id; returns the text that is final, often empty.
    std::u32string push(int64_t id);
    // The remaining text.
    std::u32string finish();

    const std::vector<int64_t>& ids() const { return ids_; }

  private:
    std::u32string decoded(size_t end) const;
    std::u32string emit(const std::u32string& text, size_t end);

    Decode decode_;
    std::vector<int64_t> ids_;
    size_t context_ = 0;  // start of the tokens that are decoded again
    size_t emitted_ = 0;  // tokens before this index have been emitted
};

}  // namespace paddle_glm
