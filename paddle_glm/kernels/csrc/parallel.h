// Work shared between threads: OpenMP, or std::thread in ThreadSanitizer builds, which do not understand
// OpenMP's barriers.
#pragma once

#include <atomic>
#include <cstdint>

#ifdef PADDLE_GLM_STD_THREADS
#include <thread>
#include <vector>
#else
#include <omp.h>
#endif

namespace paddle_glm {

// Number of threads of the next `parallel`: Paddle's setting, or OMP_NUM_THREADS.
inline int num_threads() {
#ifdef PADDLE_GLM_STD_THREADS
    return 2;
#else
    return omp_get_max_threads();
#endif
}

// Calls body(thread, threads) on every thread at once.
template <class Body>
void parallel(const Body& body) {
#ifdef PADDLE_GLM_STD_THREADS
    const int count = num_threads();
    std::vector<std::thread> threads;
    for (int thread = 1; thread < count; thread++)
        threads.emplace_back([&body, thread, count] { body(thread, count); });
    body(0, count);
    for (auto& thread : threads) thread.join();
#else
#pragma omp parallel
    body(omp_get_thread_num(), omp_get_num_threads());
#endif
}

// Calls body(begin, end) for ranges that cover [0, count), `step` at a time, on every thread; threads that
// finish early take more ranges.
template <class Body>
void parallel_for(int64_t count, int64_t step, const Body& body) {
    if (count <= step || num_threads() == 1) {
        if (count > 0) body(static_cast<int64_t>(0), count);
        return;
    }
    std::atomic<int64_t> next{0};
    parallel([&](int, int) {
        for (;;) {
            const int64_t begin = next.fetch_add(step, std::memory_order_relaxed);
            if (begin >= count) break;
            body(begin, begin + step < count ? begin + step : count);
        }
    });
}

}  // namespace paddle_glm
