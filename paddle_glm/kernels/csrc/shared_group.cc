#include "shared_group.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>

namespace paddle_glm {
namespace {

using Clock = std::chrono::steady_clock;

// How long a rank asks again before it lets others run, and before it sleeps. Waking a process takes longer
// than most waits; with more processes than processors the other rank needs this one's.
constexpr int kSpins = 200;
constexpr auto kYielding = std::chrono::microseconds(1000);

static_assert(std::atomic<uint32_t>::is_always_lock_free, "locks would not be shared");

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
    return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

int64_t SharedGroup::memory_size(int degree) {
    return degree * (static_cast<int64_t>(sizeof(Published)) + 2 * kChunk);
}

SharedGroup::SharedGroup(void* memory, int rank, int degree)
    : published_(static_cast<Published*>(memory)),
      slots_(reinterpret_cast<char*>(published_ + degree)),
      rank_(rank),
      degree_(degree) {}

char* SharedGroup::slot(int rank) const { return slots_ + (2 * rank + chunk_ % 2) * kChunk; }

void SharedGroup::publish(const char* x, int64_t bytes) {
    Published& own = published_[rank_];
    if (own.chunks.load(std::memory_order_relaxed) == chunk_) return;  // by the call that this one continues
    std::memcpy(slot(rank_), x, bytes);
    // In one order with the sleepers' count, or both sides could read before the other one's write.
    own.chunks.store(chunk_, std::memory_order_seq_cst);
    if (own.sleepers.load(std::memory_order_seq_cst) != 0) futex(own.chunks, FUTEX_WAKE, INT_MAX, nullptr);
}

bool SharedGroup::wait_for(Published& other, int64_t patience) const {
    // The other rank may be one chunk ahead.
    const auto arrived = [&](uint32_t seen) { return static_cast<int32_t>(seen - chunk_) >= 0; };
    for (int spin = 0; spin < kSpins; spin++) {
        if (arrived(other.chunks.load(std::memory_order_acquire))) return true;
        pause();
    }
    const auto start = Clock::now();
    const auto end = start + std::chrono::microseconds(patience);
    for (auto now = start; now < end; now = Clock::now()) {
        if (arrived(other.chunks.load(std::memory_order_acquire))) return true;
        if (now - start < kYielding) {
            sched_yield();
            continue;
        }
        const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(end - now).count();
        const timespec timeout{static_cast<time_t>(left / 1000000000), static_cast<long>(left % 1000000000)};
        other.sleepers.fetch_add(1, std::memory_order_seq_cst);
        const uint32_t seen = other.chunks.load(std::memory_order_seq_cst);
        if (!arrived(seen)) futex(other.chunks, FUTEX_WAIT, seen, &timeout);
        other.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    }
    return arrived(other.chunks.load(std::memory_order_acquire));
}

// Calls consume(offset, bytes) for every chunk, once all ranks have published theirs.
template <class Consume>
int SharedGroup::exchange(const char* x, int64_t bytes, int64_t patience, const Consume& consume) {
    while (done_ < bytes) {
        const int64_t size = bytes - done_ < kChunk ? bytes - done_ : kChunk;
        publish(x + done_, size);
        for (int rank = 0; rank < degree_; rank++)
            if (rank != rank_ && !wait_for(published_[rank], patience)) return rank;
        consume(done_, size);
        chunk_++;
        done_ += size;
    }
    done_ = 0;
    return -1;
}

int SharedGroup::sum(const float* x, float* y, int64_t count, int64_t patience) {
    return exchange(reinterpret_cast<const char*>(x), count * 4, patience, [&](int64_t offset, int64_t size) {
        const auto part = [&](int rank) { return reinterpret_cast<const float*>(slot(rank)); };
        const float *first = part(0), *second = part(1);
        float* out = y + offset / 4;
        for (int64_t i = 0; i < size / 4; i++) out[i] = first[i] + second[i];
        for (int rank = 2; rank < degree_; rank++) {
            const float* next = part(rank);
            for (int64_t i = 0; i < size / 4; i++) out[i] += next[i];
        }
    });
}

int SharedGroup::gather(const void* x, void* y, int64_t bytes, int64_t patience) {
    return exchange(static_cast<const char*>(x), bytes, patience, [&](int64_t offset, int64_t size) {
        for (int rank = 0; rank < degree_; rank++)
            std::memcpy(static_cast<char*>(y) + rank * bytes + offset, slot(rank), size);
    });
}

}  // namespace paddle_glm
