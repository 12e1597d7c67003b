// The kernels without Paddle, every instruction set of this processor in turn; for sanitizers and emulators.
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <mutex>

#include "check.h"
#include "isa.h"

namespace paddle_glm_test {
namespace {

char current_case[256];
int64_t done = 0, failed = 0;

}  // namespace

void set_case(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(current_case, sizeof current_case, format, arguments);
    va_end(arguments);
}

void check(bool passed, const char* format, ...) {
    done++;
    if (passed || ++failed > 30) return;
    std::printf("FAILED %s %s: ", paddle_glm::isa_name(paddle_glm::isa()), current_case);
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
}

void check_close(double got, double expected, double tolerance, const char* what, int64_t row,
                 int64_t column) {
    const bool same = std::isnan(expected)   ? std::isnan(got)
                      : std::isinf(expected) ? got == expected
                                             : std::abs(got - expected) <= tolerance;
    check(same, "%s[%lld, %lld] is %.9g, expected %.9g (tolerance %.3g)", what, static_cast<long long>(row),
          static_cast<long long>(column), got, expected, tolerance);
}

int64_t checks_done() { return done; }
int64_t checks_failed() { return failed; }

}  // namespace paddle_glm_test

int main() {
    using namespace paddle_glm_test;
    test_shared_group();
    for (int level = 0; level <= static_cast<int>(paddle_glm::Isa::kAmx); level++) {
        const auto isa = static_cast<paddle_glm::Isa>(level);
        if (!paddle_glm::set_isa(isa)) continue;
        const int64_t before = checks_done();
        test_quantized();
        test_floats();
        test_fused();
        test_training();
        std::printf("%s: %lld checks\n", paddle_glm::isa_name(isa),
                    static_cast<long long>(checks_done() - before));
        std::fflush(stdout);
    }
    std::printf("%lld checks failed\n", static_cast<long long>(checks_failed()));
    return checks_failed() ? 1 : 0;
}
