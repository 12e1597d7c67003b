// C functions for Python (ctypes) and tests.
#include <sys/mman.h>

#include <cmath>

#include "huge_pages.h"
#include "isa.h"
#include "layout.h"
#include "shared_group.h"
#include "training.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int paddle_glm_operators_version() { return paddle_glm::kOperatorsVersion; }

EXPORT const char* paddle_glm_isa() { return paddle_glm::isa_name(paddle_glm::isa()); }

EXPORT bool paddle_glm_set_isa(const char* name) {
    paddle_glm::Isa level;
    return paddle_glm::parse_isa(name, &level) && paddle_glm::set_isa(level);
}

EXPORT bool paddle_glm_has_kernel_order(int64_t columns, int64_t group_size, int bits) {
    return paddle_glm::has_kernel_order(columns, group_size, bits);
}

EXPORT void paddle_glm_pack(void* values, float* scales, int64_t rows, int64_t columns, int64_t group_size,
                            int bits) {
    paddle_glm::pack(static_cast<uint8_t*>(values), scales, rows, columns, group_size, bits);
}

EXPORT void paddle_glm_unpack(void* values, float* scales, int64_t rows, int64_t columns, int64_t group_size,
                              int bits) {
    paddle_glm::unpack(static_cast<uint8_t*>(values), scales, rows, columns, group_size, bits);
}

// Returns what `paddle_glm_end_huge_pages` takes once the weights are loaded.
EXPORT void* paddle_glm_begin_huge_pages(int64_t bytes) { return new paddle_glm::HugePages(bytes); }

EXPORT void paddle_glm_end_huge_pages(void* pages) { delete static_cast<paddle_glm::HugePages*>(pages); }

EXPORT double paddle_glm_squared_norm(const float* x, int64_t size) {
    return paddle_glm::squared_norm(x, size);
}

// One step of AdamW (arXiv:1711.05101), as Paddle computes it; also advances the powers of beta.
// gradient_scale: factor of the gradient.
EXPORT void paddle_glm_adamw(const float* gradient, int64_t size, float* parameter, float* moment1,
                             float* moment2, float* beta1_power, float* beta2_power, float learning_rate,
                             float beta1, float beta2, float epsilon, float weight_decay,
                             float gradient_scale) {
    const float correction = std::sqrt(1.0f - *beta2_power);
    const paddle_glm::AdamW step{learning_rate * correction / (1.0f - *beta1_power),
                                 beta1,
                                 beta2,
                                 epsilon * correction,
                                 1.0f - learning_rate * weight_decay,
                                 gradient_scale};
    paddle_glm::adamw_step(step, gradient, size, parameter, moment1, moment2);
    *beta1_power *= beta1;
    *beta2_power *= beta2;
}

EXPORT int64_t paddle_glm_shared_group_size(int degree) {
    return paddle_glm::SharedGroup::memory_size(degree);
}

// Maps the file of a group; null if that fails. Lives as long as the process, as Paddle's groups do.
EXPORT void* paddle_glm_shared_group(int descriptor, int rank, int degree) {
    const int64_t size = paddle_glm::SharedGroup::memory_size(degree);
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    return memory == MAP_FAILED ? nullptr : new paddle_glm::SharedGroup(memory, rank, degree);
}

EXPORT int paddle_glm_shared_sum(void* group, const float* x, float* y, int64_t count, int64_t patience) {
    return static_cast<paddle_glm::SharedGroup*>(group)->sum(x, y, count, patience);
}

EXPORT int paddle_glm_shared_gather(void* group, const void* x, void* y, int64_t bytes, int64_t patience) {
    return static_cast<paddle_glm::SharedGroup*>(group)->gather(x, y, bytes, patience);
}
