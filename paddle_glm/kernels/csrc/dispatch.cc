#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace paddle_glm {
namespace {

constexpr int kLevels = static_cast<int>(Isa::kAmx) + 1;

std::array<KernelTable, kLevels> make_tables() {
    std::array<KernelTable, kLevels> tables{};
    for (int level = 0; level < kLevels; level++) {
        KernelTable& table = tables[level];
        fill_float_portable(table);
        fill_int8_portable(table);
        fill_fused_portable(table);
#if defined(__x86_64__)
        if (level >= static_cast<int>(Isa::kAvx2)) {
            fill_few_rows_avx2(table);
            fill_widen_avx2(table);
            fill_float_multiply_avx2(table);
            fill_int8_avx2(table);
            fill_fused_avx2(table);
        }
        if (level >= static_cast<int>(Isa::kAvx512)) {
            fill_few_rows_avx512(table);
            fill_float_few_rows_avx512(table);
            fill_widen_avx512(table);
            fill_float_multiply_avx512(table);
            fill_int8_avx512(table);
            fill_fused_avx512(table);
        }
        if (level >= static_cast<int>(Isa::kAvx512Bf16)) {
            fill_few_rows_avx512_bf16(table);
            fill_float_avx512_bf16(table);
            fill_fused_avx512_bf16(table);
        }
        if (level >= static_cast<int>(Isa::kAmx)) {
            fill_int8_amx(table);
            fill_float_amx(table);
        }
#elif defined(__aarch64__)
        if (level >= static_cast<int>(Isa::kNeon)) fill_int8_neon(table);
#endif
    }
    return tables;
}

}  // namespace

const KernelTable& kernels() {
    static const auto tables = make_tables();
    return tables[static_cast<int>(isa())];
}

Arithmetic parse_arithmetic(const char* name) {
    const std::string asked = name;
    if (asked == "auto") {
        const char* set = std::getenv("PADDLE_GLM_ARITHMETIC");
        if (set == nullptr || *set == 0) return Arithmetic::kInt8;
        if (std::strcmp(set, "auto") != 0) return parse_arithmetic(set);
        return Arithmetic::kInt8;
    }
    if (asked == "int8") return Arithmetic::kInt8;
    if (asked == "bfloat16") return Arithmetic::kBfloat16;
    if (asked == "float32") return Arithmetic::kFloat32;
    throw std::invalid_argument("arithmetic \"" + asked + "\": expected auto, int8, bfloat16 or float32");
}

}  // namespace paddle_glm
