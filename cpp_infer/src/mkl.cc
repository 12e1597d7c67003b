#include "mkl.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <set>
#include <sstream>

namespace paddle_glm {
namespace {

using Flags = std::initializer_list<const char*>;

constexpr const char* kVariable = "MKL_DEBUG_CPU_TYPE";
constexpr Flags kUserVariables = {kVariable, "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"};
constexpr Flags kAvx2Flags = {"ssse3", "sse4_1", "sse4_2", "movbe", "popcnt", "pclmulqdq", "aes",
                              "f16c",  "avx",    "fma",    "bmi1",  "bmi2",   "abm",       "avx2"};
constexpr Flags kAvx512Flags = {"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"};

std::string trimmed(const std::string& text) {
    const size_t begin = text.find_first_not_of(" \t");
    return begin == text.npos ? "" : text.substr(begin, text.find_last_not_of(" \t") + 1 - begin);
}

}  // namespace

std::optional<std::string> mkl_instruction_set(const std::string& cpuinfo) {
    std::ifstream lines(cpuinfo);
    std::set<std::string> flags;
    for (std::string line; std::getline(lines, line) && !trimmed(line).empty();) {
        const size_t colon = std::min(line.find(':'), line.size());
        const std::string name = trimmed(line.substr(0, colon));
        std::istringstream text(line.substr(std::min(colon + 1, line.size())));
        if (name == "vendor_id" && trimmed(text.str()) == "GenuineIntel") return std::nullopt;
        if (name == "flags") {
            for (std::string flag; text >> flag;) flags.insert(flag);
        }
    }
    const auto has = [&flags](Flags wanted) {
        return std::all_of(wanted.begin(), wanted.end(), [&](const char* one) { return flags.count(one); });
    };
    if (!has(kAvx2Flags)) return std::nullopt;
    return has(kAvx512Flags) ? "7" : "5";
}

void choose_mkl_instructions(const std::string& cpuinfo) {
    const bool chosen = std::any_of(kUserVariables.begin(), kUserVariables.end(),
                                    [](const char* name) { return std::getenv(name) != nullptr; });
    if (chosen) return;
    if (const auto value = mkl_instruction_set(cpuinfo)) setenv(kVariable, value->c_str(), 1);
}

}  // namespace paddle_glm
