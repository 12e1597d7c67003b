#include "attention_simd.h"
#include "fused_simd.h"

namespace paddle_glm {

void fill_fused_portable(KernelTable& table) {
    fill_elementwise<4>(table);
    table.attend = attend<Float32Product<4>>;
}

}  // namespace paddle_glm
