// Sums and gathers of ranks, which are threads here; with more of them than processors.
#include "shared_group.h"

#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

namespace paddle_glm_test {
namespace {

constexpr int64_t kPatience = 20000;  // microseconds: waits are continued too

struct alignas(64) Line {
    char bytes[64];
};

// What a rank contributes to a call; the order of additions shows in the sums.
std::vector<float> part(int rank, int call, int64_t count) {
    uint32_t state = 97 * call + rank + 1;
    std::vector<float> values(count);
    for (float& value : values)
        value = 1e-3f * static_cast<float>((state = state * 1664525u + 1013904223u) >> 8);
    return values;
}

int64_t size_of(int call) {
    const int64_t chunk = paddle_glm::SharedGroup::kChunk / 4;
    const int64_t sizes[] = {1, 4096, chunk, chunk + 1, 0, 17, 2 * chunk - 7};
    return sizes[call % 7];
}

// Whether all results of a rank are right. Ranks come late in turn, some so late that the others sleep.
bool run_rank(paddle_glm::SharedGroup& group, int rank, int degree, int calls) {
    bool right = true;
    for (int call = 0; call < calls; call++) {
        const int64_t count = size_of(call);
        std::vector<float> x = part(rank, call, count), expected = part(0, call, count);
        if (call % degree == rank) std::this_thread::sleep_for(std::chrono::milliseconds(call % 5 * 8));
        std::vector<float> gathered(degree * count);
        while (group.gather(x.data(), gathered.data(), count * 4, kPatience) >= 0) continue;
        while (group.sum(x.data(), x.data(), count, kPatience) >= 0) continue;
        for (int other = 0; other < degree; other++) {
            const std::vector<float> values = part(other, call, count);
            for (int64_t i = 0; i < count; i++) {
                if (other > 0) expected[i] += values[i];
                right = right && gathered[other * count + i] == values[i];
            }
        }
        right = right && x == expected;
    }
    return right;
}

void check_ranks(int degree, int calls) {
    std::vector<Line> memory(paddle_glm::SharedGroup::memory_size(degree) / sizeof(Line), Line{});
    std::vector<std::thread> threads;
    std::vector<char> right(degree);
    for (int rank = 0; rank < degree; rank++)
        threads.emplace_back([&, rank] {
            paddle_glm::SharedGroup group(memory.data(), rank, degree);
            right[rank] = run_rank(group, rank, degree, calls);
        });
    for (auto& thread : threads) thread.join();
    set_case("shared group of %d", degree);
    for (int rank = 0; rank < degree; rank++) check(right[rank], "rank %d", rank);
}

void check_missing_rank() {
    std::vector<Line> memory(paddle_glm::SharedGroup::memory_size(3) / sizeof(Line), Line{});
    paddle_glm::SharedGroup first(memory.data(), 0, 3), last(memory.data(), 2, 3);
    const float x = 1;
    float y = 0;
    set_case("shared group without rank 1");
    check(last.sum(&x, &y, 1, 1000) == 0, "rank 0 is missing first");
    check(first.sum(&x, &y, 1, 1000) == 1, "rank 1 is missing");
    check(last.sum(&x, &y, 1, 0) == 1, "rank 1 is missing now");
}

}  // namespace

void test_shared_group() {
    for (int degree : {2, 3, 4}) check_ranks(degree, 14);
    check_missing_rank();
}

}  // namespace paddle_glm_test
