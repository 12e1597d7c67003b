// The kernels of one instruction set, as a table of functions.
//
// Every `*_ISA.cc` file is compiled with that set's flags and fills in what it does better; `dispatch.cc`
// starts from the portable functions and calls the fill functions of all levels that the processor has.
#pragma once

#include "float_kernels.h"
#include "int8_matmul.h"
#include "isa.h"
#include "layout.h"

namespace paddle_glm {

// How a product with quantised weights is computed; sums are float32 (or int32 within a group).
enum class Arithmetic {
    kInt8,      // activations rounded to int8, a scale per row and group of inputs
    kBfloat16,  // activations and weights rounded to bfloat16
    kFloat32,
};

// "int8", "bfloat16", "float32", or "auto": what the environment variable PADDLE_GLM_ARITHMETIC names, else
// int8. Throws std::invalid_argument for anything else.
Arithmetic parse_arithmetic(const char* name);

struct AttentionTask;

struct KernelTable {
    FloatKernels floats;

    // One part of one row to int8, see int8_matmul.h: `count` values, a multiple of 4, and their sum. Returns
    // the scale.
    float (*quantize_part)(const float* x, int64_t count, int8_t* values, int32_t* sum);

    // y = x w^T for whole blocks of weight rows; y: float32 [x.rows, weight.rows], of which the columns of
    // blocks [block_begin, block_end) are written. x is read again for every block: it should fit into the
    // second-level cache.
    void (*matmul_int8)(const Int8Activations& x, const QuantizedMatrix& weight, int64_t block_begin,
                        int64_t block_end, float* y);

    // One row of what fused.h declares. swiglu: y = silu(gate) * up. rotate: one head.
    void (*rms_norm)(const float* x, const float* residual, const float* weight, int64_t size, float epsilon,
                     float* sum, float* y);
    void (*swiglu)(const float* gate, const float* up, int64_t size, float* y);
    void (*rotate)(const float* x, const float* cos, const float* sin, int64_t half, int64_t size, float* y);

    // One task of attention.h; the second rounds queries, keys, values and weights to bfloat16.
    void (*attend)(const AttentionTask& task);
    void (*attend_bfloat16)(const AttentionTask& task);
};

// The table of `isa()`.
const KernelTable& kernels();

// In the order of dispatch.cc: what comes later overrides.
void fill_float_portable(KernelTable& table);
void fill_few_rows_avx512(KernelTable& table);
void fill_float_few_rows_avx512(KernelTable& table);
void fill_widen_avx512(KernelTable& table);
void fill_float_multiply_avx512(KernelTable& table);
void fill_few_rows_avx512_bf16(KernelTable& table);
void fill_float_avx512_bf16(KernelTable& table);
void fill_int8_portable(KernelTable& table);
void fill_fused_portable(KernelTable& table);
void fill_few_rows_avx2(KernelTable& table);
void fill_widen_avx2(KernelTable& table);
void fill_float_multiply_avx2(KernelTable& table);
void fill_int8_avx2(KernelTable& table);
void fill_int8_avx512(KernelTable& table);
void fill_fused_avx2(KernelTable& table);
void fill_fused_avx512(KernelTable& table);
void fill_fused_avx512_bf16(KernelTable& table);
void fill_int8_neon(KernelTable& table);
void fill_int8_amx(KernelTable& table);
void fill_float_amx(KernelTable& table);

}  // namespace paddle_glm
