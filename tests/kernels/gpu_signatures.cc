// CPU kernels of the names and parameters of Paddle's GPU operators, which compute nothing.
//
// With them Paddle on a CPU binds a call's arguments, checks its shapes (InferMeta) and aliases what an
// operator writes in place, as it does on a GPU.

#include "paddle/phi/backends/cpu/cpu_context.h"
#include "paddle/phi/core/dense_tensor.h"
#include "paddle/phi/core/kernel_registry.h"

namespace {

using paddle::optional;
using phi::DenseTensor;

template <typename T, typename Context>
void WeightOnlyLinear(const Context& context, const DenseTensor&, const DenseTensor&,
                      const optional<DenseTensor>&, const DenseTensor&, const std::string&, const int32_t,
                      const int32_t, DenseTensor* out) {
    context.template Alloc<T>(out);
}

template <typename T, typename Context>
void MaskedMultiheadAttention(const Context& context, const DenseTensor&, const DenseTensor& cache,
                              const optional<DenseTensor>&, const optional<DenseTensor>&,
                              const optional<DenseTensor>&, const optional<DenseTensor>&,
                              const optional<DenseTensor>&, const optional<DenseTensor>&,
                              const optional<DenseTensor>&, const optional<DenseTensor>&,
                              const optional<DenseTensor>&, const int, const int rotary_dims, const bool,
                              const std::string&, const float out_scale, const int, const float, const float,
                              DenseTensor* out, DenseTensor* cache_out, DenseTensor*) {
    PADDLE_ENFORCE_EQ(rotary_dims == 0 && out_scale < 0, true,
                      common::errors::InvalidArgument("other defaults"));
    context.template Alloc<T>(out);
    const_cast<T*>(cache_out->data<T>())[0] = static_cast<T>(42.0f);
}

template <typename T, typename Context>
void BlockMultiheadAttention(
    const Context& context, const DenseTensor&, const DenseTensor&, const DenseTensor&,
    const DenseTensor& prompts, const DenseTensor& lengths, const DenseTensor&, const DenseTensor&,
    const DenseTensor& offsets, const DenseTensor&, const DenseTensor&, const DenseTensor& table,
    const optional<DenseTensor>&, const optional<DenseTensor>&, const optional<DenseTensor>& rotary,
    const optional<DenseTensor>& mask, const optional<DenseTensor>& decode_mask, const optional<DenseTensor>&,
    const optional<DenseTensor>&, const optional<DenseTensor>&, const optional<DenseTensor>&,
    const optional<DenseTensor>&, const optional<DenseTensor>& bias, const optional<DenseTensor>&,
    const optional<DenseTensor>&, const optional<DenseTensor>& longest_prompt,
    const optional<DenseTensor>& longest, int max_tokens, int block_size, bool, const bool, const int,
    const float, const float, const float out_scale, const std::string& compute_dtype, const float,
    DenseTensor* out, DenseTensor*, DenseTensor* keys, DenseTensor* values) {
    const bool others = rotary || mask || decode_mask || bias || out_scale > 0 || compute_dtype != "default";
    PADDLE_ENFORCE_EQ(others, false, common::errors::InvalidArgument("other defaults"));
    PADDLE_ENFORCE_EQ(max_tokens == 1 && block_size == 64 && longest_prompt->template data<int>()[0] == 0,
                      true, common::errors::InvalidArgument("other sizes"));
    for (const DenseTensor* one : {&prompts, &lengths, &offsets, &table}) {
        PADDLE_ENFORCE_EQ(one->dtype(), phi::DataType::INT32, common::errors::InvalidArgument("dtype"));
    }
    context.template Alloc<T>(out);
    const_cast<T*>(keys->data<T>())[0] = static_cast<T>(longest->template data<int>()[0]);
    const_cast<T*>(values->data<T>())[0] = static_cast<T>(lengths.template data<int>()[0]);
}

template <typename T, typename Context>
void FlashMask(const Context& context, const DenseTensor& query, const DenseTensor&, const DenseTensor&,
               const DenseTensor&, const optional<DenseTensor>&, float, bool, bool return_softmax,
               bool is_test, const std::string&, DenseTensor* out, DenseTensor*, DenseTensor* softmax_lse,
               DenseTensor* seed_offset) {
    PADDLE_ENFORCE_EQ(return_softmax || is_test, false, common::errors::InvalidArgument("other defaults"));
    context.template Alloc<T>(out);
    softmax_lse->Resize({query.dims()[0], query.dims()[2], query.dims()[1]});
    context.template Alloc<float>(softmax_lse);
    seed_offset->Resize({2});
    context.template Alloc<int64_t>(seed_offset);
}

template <typename T, typename Context>
void FlashMaskGrad(const Context& context, const DenseTensor&, const DenseTensor&, const DenseTensor&,
                   const DenseTensor&, const DenseTensor&, const DenseTensor&, const DenseTensor&,
                   const DenseTensor&, float, bool, DenseTensor* grad_query, DenseTensor* grad_key,
                   DenseTensor* grad_value) {
    for (auto* one : {grad_query, grad_key, grad_value}) context.template Alloc<T>(one);
}

template <typename T, typename Context>
void Rotary(const Context& context, const DenseTensor&, const optional<DenseTensor>&,
            const optional<DenseTensor>&, const optional<DenseTensor>&, const optional<DenseTensor>&,
            const optional<DenseTensor>&, bool, bool, float, DenseTensor* out_q, DenseTensor*, DenseTensor*) {
    context.template Alloc<T>(out_q);
}

template <typename T, typename Context>
void RotaryGrad(const Context& context, const optional<DenseTensor>&, const optional<DenseTensor>&,
                const optional<DenseTensor>&, const DenseTensor&, const optional<DenseTensor>&,
                const optional<DenseTensor>&, bool, bool, float, DenseTensor* grad_q, DenseTensor*,
                DenseTensor*) {
    context.template Alloc<T>(grad_q);
}

template <typename T, typename Context>
void RmsNorm(const Context& context, const DenseTensor&, const optional<DenseTensor>&,
             const std::vector<int64_t>&, double, DenseTensor* y, DenseTensor* inverse) {
    context.template Alloc<T>(y);
    context.template Alloc<float>(inverse);
}

template <typename T, typename Context>
void RmsNormGrad(const Context& context, const DenseTensor&, const optional<DenseTensor>&, const DenseTensor&,
                 const DenseTensor&, const std::vector<int64_t>&, double, DenseTensor* grad_x,
                 DenseTensor* grad_weight) {
    if (grad_x) context.template Alloc<T>(grad_x);
    if (grad_weight) context.template Alloc<T>(grad_weight);
}

}  // namespace

PD_REGISTER_KERNEL(weight_only_linear, CPU, ALL_LAYOUT, WeightOnlyLinear, phi::float16, phi::bfloat16) {}
PD_REGISTER_KERNEL(masked_multihead_attention, CPU, ALL_LAYOUT, MaskedMultiheadAttention, phi::float16,
                   phi::bfloat16) {}
PD_REGISTER_KERNEL(block_multihead_attention, CPU, ALL_LAYOUT, BlockMultiheadAttention, phi::float16,
                   phi::bfloat16) {}
PD_REGISTER_KERNEL(flashmask_attention, CPU, ALL_LAYOUT, FlashMask, phi::float16, phi::bfloat16) {}
PD_REGISTER_KERNEL(flashmask_attention_grad, CPU, ALL_LAYOUT, FlashMaskGrad, phi::float16, phi::bfloat16) {}
PD_REGISTER_KERNEL(fused_rotary_position_embedding, CPU, ALL_LAYOUT, Rotary, phi::float16, phi::bfloat16) {}
PD_REGISTER_KERNEL(fused_rotary_position_embedding_grad, CPU, ALL_LAYOUT, RotaryGrad, phi::float16,
                   phi::bfloat16) {}
PD_REGISTER_KERNEL(rms_norm, CPU, ALL_LAYOUT, RmsNorm, phi::float16, phi::bfloat16) {}
PD_REGISTER_KERNEL(rms_norm_grad, CPU, ALL_LAYOUT, RmsNormGrad, phi::float16, phi::bfloat16) {}
