#include "decode_avx2.h"
#include "widen_simd.h"

namespace paddle_glm {

void fill_widen_avx2(KernelTable& table) { fill_widen(table.floats); }

}  // namespace paddle_glm
