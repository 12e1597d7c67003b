// Collectives of processes on one machine, through memory that all of them map.
#pragma once

#include <atomic>
#include <cstdint>

namespace paddle_glm {

// One rank's end of the memory. Large values pass in chunks; every rank has two slots, which chunks use in
// turn: a rank that writes its slot again has seen all others publish the chunk in between, and so finish
// reading the one before. All ranks make the same calls in the same order, from one thread each.
class SharedGroup {
  public:
    // Bytes of a slot: in smaller ones ranks wait for each other more often.
    static constexpr int64_t kChunk = 1 << 20;

    // Bytes that a group of `degree` ranks needs.
    static int64_t memory_size(int degree);

    // degree: at least 2. memory: mapped by all ranks, zeros before the first of them is made, aligned to 64
    // bytes.
    SharedGroup(void* memory, int rank, int degree);

    // y = the sum of all ranks' x [count], in the order of ranks, so that all get the same bits. y may be x.
    // Returns -1; or, after `patience` microseconds without progress, a rank that it still waits for. The
    // same call must then be made again: it goes on where it was.
    int sum(const float* x, float* y, int64_t count, int64_t patience);

    // y [degree, bytes] = all ranks' x [bytes]. y must not overlap x. Returns as `sum` does.
    int gather(const void* x, void* y, int64_t bytes, int64_t patience);

  private:
    // A rank's count of published chunks, and of processes that sleep until it changes.
    struct alignas(64) Published {
        std::atomic<uint32_t> chunks;
        std::atomic<uint32_t> sleepers;
    };

    template <class Consume>
    int exchange(const char* x, int64_t bytes, int64_t patience, const Consume& consume);
    void publish(const char* x, int64_t bytes);
    bool wait_for(Published& other, int64_t patience) const;
    char* slot(int rank) const;

    Published* const published_;
    char* const slots_;
    const int rank_, degree_;
    uint32_t chunk_ = 1;  // number of the next one, modulo 2^32
    int64_t done_ = 0;    // bytes of an unfinished call
};

}  // namespace paddle_glm
