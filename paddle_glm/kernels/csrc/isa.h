// Instruction sets: chosen once per process from what the processor has.
#pragma once

namespace paddle_glm {

// Ordered: a processor of one level has all below it (of its architecture).
enum class Isa {
    kPortable,    // plain C++
    kNeon,        // Arm: NEON with dot products
    kAvx2,        // x86: AVX2, FMA, F16C
    kAvx512,      // AVX512 F, BW, VL, DQ and VNNI
    kAvx512Bf16,  // and BF16
    kAmx,         // and AMX tiles, int8 and bfloat16
};

// The best level of this processor and build, or what the environment variable PADDLE_GLM_ISA names
// ("portable", "neon", "avx2", "avx512", "avx512_bf16", "amx"). A level that the processor lacks is ignored
// with a line on stderr.
Isa isa();

// Overrides `isa()`, for tests; false where the processor lacks it.
bool set_isa(Isa level);

bool supports(Isa level);
const char* isa_name(Isa level);
bool parse_isa(const char* name, Isa* level);

}  // namespace paddle_glm
