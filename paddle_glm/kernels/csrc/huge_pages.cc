#include "huge_pages.h"

#ifdef __GLIBC__
#include <malloc.h>
#include <sys/mman.h>
#endif

#include <cstdlib>

namespace paddle_glm {

#ifdef __GLIBC__

namespace {

constexpr uintptr_t kPage = 2 << 20;
constexpr int kNeverTrim = -1;
// glibc's defaults; what it would raise the thresholds to by itself, as it no longer does once they are set.
constexpr int kMappedBlocks = 65536, kMappedFrom = 32 << 20, kTrimFrom = 64 << 20;

}  // namespace

HugePages::HugePages(int64_t bytes) {
    // Memory at the end of the heap, that stays there when it is freed, before anything has touched it.
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, kNeverTrim);
    void* memory = std::malloc(bytes);
    if (memory == nullptr) return;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kPage * kPage;
    if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
    std::free(memory);
}

HugePages::~HugePages() {
    mallopt(M_MMAP_MAX, kMappedBlocks);
    mallopt(M_MMAP_THRESHOLD, kMappedFrom);
    mallopt(M_TRIM_THRESHOLD, kTrimFrom);
}

#else

HugePages::HugePages(int64_t) {}
HugePages::~HugePages() {}

#endif

}  // namespace paddle_glm
