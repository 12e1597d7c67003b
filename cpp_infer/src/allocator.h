#pragma once

#include <malloc.h>

namespace paddle_glm {

// By default malloc returns blocks of the size of a prompt's activations, or of upcast weights, to the
// system; see paddle_glm/allocator.py.
inline void keep_freed_memory() {
    constexpr int kTrimThreshold = 512 << 20;
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, kTrimThreshold);
}

}  // namespace paddle_glm
