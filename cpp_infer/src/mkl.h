#pragma once

#include <optional>
#include <string>

namespace paddle_glm {

// Sets MKL_DEBUG_CPU_TYPE where that helps: call it before Paddle computes. The same as paddle_glm/mkl.py,
// which has the reasons.
void choose_mkl_instructions(const std::string& cpuinfo = "/proc/cpuinfo");

// The variable's value for the processor that the file describes, or none.
std::optional<std::string> mkl_instruction_set(const std::string& cpuinfo);

}  // namespace paddle_glm
