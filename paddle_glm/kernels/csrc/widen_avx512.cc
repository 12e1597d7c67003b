#include "decode_avx512.h"
#include "widen_simd.h"

namespace paddle_glm {

void fill_widen_avx512(KernelTable& table) { fill_widen(table.floats); }

}  // namespace paddle_glm
