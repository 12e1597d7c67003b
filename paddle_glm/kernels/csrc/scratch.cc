#include "scratch.h"

#include <cstdlib>
#include <new>

namespace paddle_glm {
namespace {

constexpr int64_t kStep = 1 << 16;
constexpr int64_t kKeptBytes = 64 << 20;

struct Buffer {
    uint8_t* data = nullptr;
    int64_t size = 0;

    ~Buffer() { std::free(data); }
};

thread_local Buffer buffers[static_cast<int>(Scratch::kCount)];

}  // namespace

uint8_t* scratch(Scratch use, int64_t bytes) {
    Buffer& buffer = buffers[static_cast<int>(use)];
    if (bytes > buffer.size) {
        std::free(buffer.data);
        buffer.size = (bytes + kStep - 1) / kStep * kStep;
        buffer.data = static_cast<uint8_t*>(std::aligned_alloc(64, buffer.size));
        if (buffer.data == nullptr) {
            buffer.size = 0;
            throw std::bad_alloc();
        }
    }
    return buffer.data;
}

BlockMemory::BlockMemory(int64_t floats) {
    const int64_t bytes = floats * sizeof(float);
    if (bytes <= kKeptBytes) {
        next_ = reinterpret_cast<float*>(scratch(Scratch::kBlock, bytes));
        return;
    }
    owned_ = static_cast<float*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (owned_ == nullptr) throw std::bad_alloc();
    next_ = owned_;
}

BlockMemory::~BlockMemory() { std::free(owned_); }

float* BlockMemory::take(int64_t count) {
    float* part = next_;
    next_ += padded(count);
    return part;
}

}  // namespace paddle_glm
