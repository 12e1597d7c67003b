// Working memory that a thread keeps between calls.
#pragma once

#include <cstdint>

namespace paddle_glm {

enum class Scratch {
    kActivations,  // of the thread that calls an operator: inputs in another type or order
    kTile,         // of every thread of a product: unpacked weights, partial sums
    kCount,
};

// At least `bytes` of memory of the calling thread, aligned to 64 bytes, contents undefined; valid until the
// thread asks for the same use again.
uint8_t* scratch(Scratch use, int64_t bytes);

}  // namespace paddle_glm
