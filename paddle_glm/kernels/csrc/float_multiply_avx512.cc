#include "kernels.h"
#include "multiply_panel_avx512.h"

namespace paddle_glm {
namespace {

struct Float32Product {
    using Number = float;
    using Element = float;
    using Vector = __m512;
    static constexpr int kNumbers = 1;

    static Vector load(const float* panel) { return _mm512_load_ps(panel); }
    static Vector broadcast(const float* x) { return _mm512_set1_ps(*x); }
    static __m512 multiply_add(Vector x, Vector w, __m512 sum) { return _mm512_fmadd_ps(x, w, sum); }
};

}  // namespace

void fill_float_multiply_avx512(KernelTable& table) {
    table.floats.multiply_panel = multiply_panel<Float32Product>;
}

}  // namespace paddle_glm
