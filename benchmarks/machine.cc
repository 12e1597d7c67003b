// Limits of a machine: read bandwidth and rates of products. Compiled and run by machine.py.
//
//     machine THREADS BYTES ROUNDS
//
// Prints one line per limit: its name, then a rate for each round: GB/s, or GFLOP/s (GOP/s) where a product
// and an addition count two. What the processor lacks has no rates.

#include <immintrin.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int kChains = 10;          // independent accumulators: hide the latency, and fit in 16 registers
constexpr long kProducts = 2000000;  // of every accumulator in one round

std::atomic<uint64_t> sink;  // keeps results alive

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds until all threads have run `work`.
double timed(int threads, const std::function<void(int)>& work) {
    std::atomic<int> waiting{threads};
    std::vector<std::thread> pool;
    auto body = [&](int thread) {
        waiting--;
        while (waiting > 0) {
        }
        work(thread);
    };
    for (int thread = 1; thread < threads; thread++) pool.emplace_back(body, thread);
    while (waiting > 1) {
    }
    const double start = now();
    body(0);
    for (auto& one : pool) one.join();
    return now() - start;
}

// The sum of 64-bit words, with eight registers.
#define SUM(NAME, TARGET, VECTOR, ZERO, ADD)                                              \
    __attribute__((target(TARGET))) uint64_t NAME(const char* data, size_t bytes) {       \
        VECTOR sums[8];                                                                   \
        for (auto& one : sums) one = ZERO;                                                \
        for (size_t place = 0; place < bytes; place += sizeof sums)                       \
            for (int i = 0; i < 8; i++)                                                   \
                sums[i] = ADD(sums[i], reinterpret_cast<const VECTOR*>(data + place)[i]); \
        uint64_t words[sizeof sums / 8], total = 0;                                       \
        memcpy(words, sums, sizeof sums);                                                 \
        for (auto word : words) total += word;                                            \
        return total;                                                                     \
    }

SUM(sum_avx2, "avx2", __m256i, _mm256_setzero_si256(), _mm256_add_epi64)
SUM(sum_avx512, "avx512f", __m512i, _mm512_setzero_si512(), _mm512_add_epi64)

// One accumulator register each: `MULTIPLY_ADD` names c, a and b. The empty asm keeps operands in registers
// and products in the loop.
#define PRODUCTS(NAME, TARGET, VECTOR, ZERO, MULTIPLY_ADD)                                  \
    __attribute__((target(TARGET))) void NAME() {                                           \
        VECTOR c[kChains], a = ZERO, b = ZERO;                                              \
        for (auto& one : c) one = ZERO;                                                     \
        for (long i = 0; i < kProducts; i++) {                                              \
            asm volatile("" : "+x"(a), "+x"(b));                                            \
            _Pragma("GCC unroll 10") for (int j = 0; j < kChains; j++) c[j] = MULTIPLY_ADD; \
        }                                                                                   \
        for (auto& one : c) asm volatile("" : "+x"(one));                                   \
    }

PRODUCTS(float32_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(a, b, c[j]))
PRODUCTS(float32_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, b, c[j]))
PRODUCTS(bfloat16_avx512, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
         _mm512_dpbf16_ps(c[j], reinterpret_cast<__m512bh&>(a), reinterpret_cast<__m512bh&>(b)))
PRODUCTS(int8_avx_vnni, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), _mm256_dpbusd_avx_epi32(c[j], a, b))
PRODUCTS(int8_avx512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(c[j], a, b))

// Tiles 0 to 3 accumulate products of tiles 4, 5 and 6, 7: 16 rows of 64 bytes each.
__attribute__((target("amx-tile"))) void configure_tiles() {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t columns[16];
        uint8_t rows[16];
    } tiles = {};
    tiles.palette = 1;
    for (int i = 0; i < 8; i++) tiles.columns[i] = 64, tiles.rows[i] = 16;
    _tile_loadconfig(&tiles);
}

#define TILES(NAME, TARGET, PRODUCT)                          \
    __attribute__((target("amx-tile," TARGET))) void NAME() { \
        configure_tiles();                                    \
        for (long i = 0; i < kProducts / 16; i++) {           \
            PRODUCT(0, 4, 6);                                 \
            PRODUCT(1, 4, 7);                                 \
            PRODUCT(2, 5, 6);                                 \
            PRODUCT(3, 5, 7);                                 \
        }                                                     \
        _tile_release();                                      \
    }

TILES(bfloat16_amx, "amx-bf16", _tile_dpbf16ps)
TILES(int8_amx, "amx-int8", _tile_dpbssd)

uint32_t cpuid(int leaf, int part, int which) {
    uint32_t words[4];
    asm volatile("cpuid"
                 : "=a"(words[0]), "=b"(words[1]), "=c"(words[2]), "=d"(words[3])
                 : "a"(leaf), "c"(part));
    return words[which];
}

// Linux gives the tiles' state to a process that asks for it.
bool has_amx() {
    const bool tiles = cpuid(0, 0, 0) >= 7 && (cpuid(7, 0, 3) >> 24 & 1);
    return tiles && syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}

struct Product {
    const char* name;
    bool supported;
    void (*run)();
    double operations;  // of one call
};

std::vector<Product> products() {
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f"), amx = has_amx();
    const double registers = 2.0 * kChains * kProducts, tiles = 2.0 * 4 * (kProducts / 16) * 16 * 16;
    return {
        {"float32 AVX2", __builtin_cpu_supports("fma") != 0, float32_avx2, 8 * registers},
        {"float32 AVX-512", avx512, float32_avx512, 16 * registers},
        {"bfloat16 AVX512-BF16", avx512 && (cpuid(7, 1, 0) >> 5 & 1), bfloat16_avx512, 32 * registers},
        {"bfloat16 AMX", amx && (cpuid(7, 0, 3) >> 22 & 1), bfloat16_amx, 32 * tiles},
        {"int8 AVX-VNNI", (cpuid(7, 1, 0) >> 4 & 1) != 0, int8_avx_vnni, 32 * registers},
        {"int8 AVX512-VNNI", avx512 && (cpuid(7, 0, 2) >> 11 & 1), int8_avx512, 64 * registers},
        {"int8 AMX", amx && (cpuid(7, 0, 3) >> 25 & 1), int8_amx, 64 * tiles},
    };
}

void print_rates(const char* name, double amount, int rounds, int threads,
                 const std::function<void(int)>& work) {
    printf("%s:", name);
    for (int round = 0; round < rounds; round++) printf(" %.2f", amount / timed(threads, work) / 1e9);
    printf("\n");
}

void print_bandwidth(int threads, size_t bytes, int rounds) {
    const size_t unit = 2u << 20, share = bytes / threads / unit * unit;  // huge pages
    char* data = static_cast<char*>(aligned_alloc(unit, share * threads));
    if (data == nullptr) {
        fprintf(stderr, "cannot allocate %zu bytes\n", share * threads);
        exit(1);
    }
    madvise(data, share * threads, MADV_HUGEPAGE);
    memset(data, 1, share * threads);
    const auto sum = __builtin_cpu_supports("avx512f") ? sum_avx512 : sum_avx2;
    print_rates("read", static_cast<double>(share) * threads, rounds, threads,
                [&](int thread) { sink += sum(data + thread * share, share); });
    free(data);
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) {
        fprintf(stderr, "usage: machine THREADS BYTES ROUNDS\n");
        return 2;
    }
    const int threads = atoi(words[1]), rounds = atoi(words[3]);
    print_bandwidth(threads, strtoull(words[2], nullptr, 10), rounds);
    for (const auto& one : products()) {
        if (one.supported)
            print_rates(one.name, one.operations * threads, rounds, threads, [&](int) { one.run(); });
        else
            printf("%s:\n", one.name);
    }
}
