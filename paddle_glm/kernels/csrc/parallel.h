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

// Calls body(begin, end) for ranges that cover [0, count), on every thread; threads that finish early take
// more. Ranges are long at first, for memory is read fastest in one piece, and short at the end, where
// threads would wait for each other; all but the last are a multiple of `step`.
template <class Body>
void parallel_for(int64_t count, int64_t step, const Body& body) {
    if (count <= step || num_threads() == 1) {
        if (count > 0) body(static_cast<int64_t>(0), count);
        return;
    }
    std::atomic<int64_t> next{0};
    parallel([&](int, int threads) {
        int64_t begin = next.load(std::memory_order_relaxed);
        while (begin < count) {
            const int64_t share = (count - begin) / (4 * threads) / step * step;
            const int64_t size = share > step ? share : step;
            const int64_t end = count - begin < size ? count : begin + size;
            if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
            body(begin, end);
            begin = next.load(std::memory_order_relaxed);
        }
    });
}

}  // namespace paddle_glm
