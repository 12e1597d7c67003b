// C functions for Python (ctypes) and tests.
#include "isa.h"
#include "layout.h"

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
