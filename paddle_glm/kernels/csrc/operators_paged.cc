// Paddle operators of a cache in pages, as those of operators_attention.cc: for dygraph, never in an exported
// graph.
#include "operators.h"

namespace paddle_glm {
namespace {

std::vector<Tensor> paged_append_rotary(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                        const Tensor& key, const Tensor& value, const Tensor& table,
                                        const Tensor& past, int num_heads, int num_kv_heads) {
    const Cache cache(key, value, table, past, axis_size(qkv, 1, 3, "qkv"));
    return append_rotary(qkv, cos, sin, cache, num_heads, num_kv_heads);
}

std::vector<Tensor> paged_append_cache(const Tensor& key, const Tensor& value, const Tensor& key_pages,
                                       const Tensor& value_pages, const Tensor& table, const Tensor& past) {
    append_cache(key, value, Cache(key_pages, value_pages, table, past, axis_size(key, 2, 4, "key")));
    return {past};
}

std::vector<Tensor> paged_cached_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                           const Tensor& table, const Tensor& past, float scale,
                                           const std::string& arithmetic) {
    const Cache cache(key, value, table, past, axis_size(query, 2, 4, "query"));
    return cached_attention(query, cache, nullptr, scale, arithmetic);
}

}  // namespace
}  // namespace paddle_glm

PD_BUILD_OP(paddle_glm_paged_append_rotary)
    .Inputs({"QKV", "Cos", "Sin", "KeyPages", "ValuePages", "Table", "Past"})
    .Outputs({"Query"})
    .Attrs({"num_heads: int", "num_kv_heads: int"})
    .SetKernelFn(PD_KERNEL(paddle_glm::paged_append_rotary));

PD_BUILD_OP(paddle_glm_paged_append_cache)
    .Inputs({"Key", "Value", "KeyPages", "ValuePages", "Table", "Past"})
    .Outputs({"SamePast"})
    .SetKernelFn(PD_KERNEL(paddle_glm::paged_append_cache));

PD_BUILD_OP(paddle_glm_paged_cached_attention)
    .Inputs({"Query", "KeyPages", "ValuePages", "Table", "Past"})
    .Outputs({"Output"})
    .Attrs({"scale: float", "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::paged_cached_attention));
