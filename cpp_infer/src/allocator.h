#pragma once

#include <malloc.h>

namespace paddle_glm {

// Each step dequantises or upcasts weights into temporary blocks. By default malloc returns blocks of that
// size to the system, which costs more than the step; see paddle_glm/allocator.py.
inline void keep_freed_memory() {
    constexpr int kTrimThreshold = 512 << 20;
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, kTrimThreshold);
}

}  // namespace paddle_glm
