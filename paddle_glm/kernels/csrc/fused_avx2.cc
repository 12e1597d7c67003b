#include "attention_simd.h"
#include "fused_simd.h"

namespace paddle_glm {

void fill_fused_avx2(KernelTable& table) {
    fill_elementwise<8>(table);
    table.attend = attend<Float32Product<8>>;
}

}  // namespace paddle_glm
