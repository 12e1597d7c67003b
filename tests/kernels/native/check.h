// What the native tests share: buffers of exact size, random numbers, checks against float64.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace paddle_glm_test {

// An array on the heap that ends with its last element and is aligned as its elements are, bytes as float32:
// the address sanitizer sees what reads behind it, and aligned vector loads from it fault.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t size)
        : size_(size), memory_(static_cast<char*>(std::malloc(kShift + size * sizeof(T)))) {
        if (memory_ == nullptr) throw std::bad_alloc();
        std::memset(memory_, 0xa5, kShift + size * sizeof(T));
    }
    Buffer(const Buffer& other) : Buffer(other.size_) {
        std::memcpy(data(), other.data(), size_ * sizeof(T));
    }
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(memory_); }

    T* data() { return reinterpret_cast<T*>(memory_ + kShift); }
    const T* data() const { return reinterpret_cast<const T*>(memory_ + kShift); }
    T& operator[](int64_t i) { return data()[i]; }
    const T& operator[](int64_t i) const { return data()[i]; }
    int64_t size() const { return size_; }
    bool operator==(const Buffer& other) const {
        return size_ == other.size_ && std::memcmp(data(), other.data(), size_ * sizeof(T)) == 0;
    }

  private:
    static constexpr int64_t kShift = sizeof(T) == 1 ? 4 : sizeof(T);
    int64_t size_;
    char* memory_;
};

// Random numbers that are the same on every platform.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    uint32_t bits() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state_ >> 32);
    }
    // Of [low, high].
    int integer(int low, int high) { return low + static_cast<int>(bits() % (high - low + 1)); }
    // Roughly normal, of variance 1.
    float normal() {
        float sum = 0;
        for (int i = 0; i < 12; i++) sum += static_cast<float>(bits() >> 8) * 0x1p-24f;
        return sum - 6;
    }

  private:
    uint64_t state_;
};

// What is being tested, printed with failures.
void set_case(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Counts a check, and prints the case and the message where it failed.
void check(bool passed, const char* format, ...) __attribute__((format(printf, 2, 3)));

// |got - expected| <= tolerance; expected may be infinite or NaN, and then `got` has to be so too.
void check_close(double got, double expected, double tolerance, const char* what, int64_t row,
                 int64_t column);

int64_t checks_done();
int64_t checks_failed();

// The suites; each runs with the instruction set that is chosen.
void test_quantized();
void test_floats();
void test_fused();
void test_training();

// Runs once, for it depends on no instruction set.
void test_shared_group();

}  // namespace paddle_glm_test
