#include "isa.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace paddle_glm {
namespace {

constexpr const char* kNames[] = {"portable", "neon", "avx2", "avx512", "avx512_bf16", "amx"};
constexpr int kCount = 6;
std::atomic<int> chosen{-1};

#if defined(__x86_64__)
bool has_amx() {
#if defined(PADDLE_GLM_EMULATE_AMX)
    return true;
#elif defined(__linux__)
    unsigned a, b, c, d;
    constexpr unsigned kInt8 = 1u << 25, kBf16 = 1u << 22, kTile = 1u << 24;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if ((d & (kInt8 | kBf16 | kTile)) != (kInt8 | kBf16 | kTile)) return false;
    // The system grants tiles only to programs that ask: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA.
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return false;
#endif
}

// Compilers before GCC 13 do not know its name.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool detect(Isa level) {
    __builtin_cpu_init();
    switch (level) {
        case Isa::kPortable:
            return true;
        case Isa::kNeon:
            return false;
        case Isa::kAvx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
        case Isa::kAvx512:
            return detect(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
        case Isa::kAvx512Bf16:
            return detect(Isa::kAvx512) && __builtin_cpu_supports("avx512bf16");
        case Isa::kAmx:
            return detect(Isa::kAvx512Bf16) && has_amx();
    }
    return false;
}
#else
bool detect(Isa level) {
#if defined(__aarch64__) && defined(__linux__)
    constexpr unsigned long kNeeded = HWCAP_ASIMDDP | HWCAP_ASIMDHP;
    if (level == Isa::kNeon) return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
#endif
    return level == Isa::kPortable;
}
#endif

Isa best() {
    for (int level = kCount - 1; level > 0; level--)
        if (supports(static_cast<Isa>(level))) return static_cast<Isa>(level);
    return Isa::kPortable;
}

Isa from_environment() {
    const char* name = std::getenv("PADDLE_GLM_ISA");
    Isa level;
    if (name == nullptr || *name == 0) return best();
    if (parse_isa(name, &level) && supports(level)) return level;
    Isa fallback = best();
    std::fprintf(stderr, "warning: PADDLE_GLM_ISA=%s: using %s; this processor has", name,
                 isa_name(fallback));
    for (int i = 0; i < kCount; i++)
        if (supports(static_cast<Isa>(i))) std::fprintf(stderr, " %s", kNames[i]);
    std::fprintf(stderr, "\n");
    return fallback;
}

}  // namespace

bool supports(Isa level) { return detect(level); }

const char* isa_name(Isa level) { return kNames[static_cast<int>(level)]; }

bool parse_isa(const char* name, Isa* level) {
    for (int i = 0; i < kCount; i++)
        if (std::strcmp(name, kNames[i]) == 0) {
            *level = static_cast<Isa>(i);
            return true;
        }
    return false;
}

Isa isa() {
    int level = chosen.load(std::memory_order_relaxed);
    if (level < 0) chosen.store(level = static_cast<int>(from_environment()), std::memory_order_relaxed);
    return static_cast<Isa>(level);
}

bool set_isa(Isa level) {
    if (!supports(level)) return false;
    chosen.store(static_cast<int>(level), std::memory_order_relaxed);
    return true;
}

}  // namespace paddle_glm
