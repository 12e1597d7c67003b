// Working memory that a thread keeps between calls.
#pragma once

#include <cstdint>

namespace paddle_glm {

enum class Scratch {
    kActivations,  // of the thread that calls an operator: inputs in another type or order
    kTile,         // of every thread of a product: unpacked weights, partial sums
    kBlock,        // of the thread that calls an operator: what it computes between its products
    kCount,
};

// At least `bytes` of memory of the calling thread, aligned to 64 bytes, contents undefined; valid until the
// thread asks for the same use again.
uint8_t* scratch(Scratch use, int64_t bytes);

// kBlock memory of one operator; more than 64 MiB of it are returned to the system afterwards.
class BlockMemory {
  public:
    explicit BlockMemory(int64_t floats);
    ~BlockMemory();
    BlockMemory(const BlockMemory&) = delete;

    // The next `count` floats, aligned to 64 bytes. `padded` is what a part of so many floats takes.
    float* take(int64_t count);
    static int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

  private:
    float *owned_ = nullptr, *next_;
};

}  // namespace paddle_glm
