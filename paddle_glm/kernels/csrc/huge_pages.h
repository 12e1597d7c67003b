// Pages of 2 MiB for weights that Paddle Inference allocates: reading them takes less time.
#pragma once

#include <cstdint>

namespace paddle_glm {

// While it lives, malloc takes the next `bytes` from memory in huge pages, where Linux has them. Without
// glibc nothing happens. The process's settings of malloc are glibc's afterwards. One at a time.
class HugePages {
  public:
    explicit HugePages(int64_t bytes);
    ~HugePages();
    HugePages(const HugePages&) = delete;
};

}  // namespace paddle_glm
