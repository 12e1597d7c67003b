#include "attention_simd.h"
#include "fused_simd.h"

namespace paddle_glm {

void fill_fused_avx512(KernelTable& table) {
    fill_elementwise<16>(table);
    table.attend = attend<Float32Product<16>>;
}

}  // namespace paddle_glm
