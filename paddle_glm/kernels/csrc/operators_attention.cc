// Paddle operators of what lies between the products of a transformer block; see fused.h. All tensors are
// float32 on the CPU, except norms' weights.
#include "operators.h"

namespace paddle_glm {

void check_float32(const Tensor& tensor, const char* name) {
    PD_CHECK(tensor.dtype() == DataType::FLOAT32, name, " must be float32, not ",
             phi::DataTypeToString(tensor.dtype()));
}

const float* float32_vector(const Tensor& vector, int64_t size, const char* name) {
    PD_CHECK(vector.numel() == size, name, " has ", vector.numel(), " elements: expected ", size);
    if (vector.dtype() == DataType::FLOAT32) return vector.data<float>();
    const bool half = vector.dtype() == DataType::FLOAT16;
    PD_CHECK(half || vector.dtype() == DataType::BFLOAT16, name, " must be float32, float16 or bfloat16");
    const auto* values = static_cast<const uint16_t*>(vector.data());
    return widen(values, half ? FloatType::kFloat16 : FloatType::kBfloat16, size);
}

namespace {

CacheShape checked_shape(const Tensor& key, const Tensor& value, const char* names, const char* shape) {
    check_float32(key, names);
    check_float32(value, names);
    const Shape sizes = key.shape();
    PD_CHECK(sizes.size() == 4 && sizes == value.shape(), "key and value ", names, " must have one shape ",
             shape);
    return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

}  // namespace

Cache::Cache(const Tensor& key_buffer, const Tensor& value_buffer, const Tensor& past_tensor, int64_t tokens)
    : shape(checked_shape(key_buffer, value_buffer, "buffers",
                          "[batch, key/value heads, capacity, head_dim]")) {
    PD_CHECK(past_tensor.dtype() == DataType::INT64 && past_tensor.numel() == 1, "past must be int64 [1]");
    past.same = past_tensor.data<int64_t>()[0];
    PD_CHECK(past.same >= 0 && past.same + tokens <= shape.capacity, "the cache has ", shape.capacity,
             " columns: no room for ", tokens, " after ", past.same);
    key = const_cast<float*>(key_buffer.data<float>());
    value = const_cast<float*>(value_buffer.data<float>());
}

Cache::Cache(const Tensor& key_pages, const Tensor& value_pages, const Tensor& table,
             const Tensor& past_tensor, int64_t tokens)
    : shape(checked_shape(key_pages, value_pages, "pages", "[pages, key/value heads, 64, head_dim]")) {
    const int64_t number = shape.batch;
    PD_CHECK(shape.capacity == kPageColumns, "pages of ", shape.capacity, " columns: expected ",
             kPageColumns);
    PD_CHECK(table.dtype() == DataType::INT64 && table.shape().size() == 2,
             "table must be int64 [batch, pages]");
    shape.batch = table.shape()[0];
    const int64_t width = table.shape()[1];
    shape.capacity = width * kPageColumns;
    shape.table = table.data<int64_t>();
    PD_CHECK(past_tensor.dtype() == DataType::INT64 && past_tensor.shape() == Shape({shape.batch}),
             "past must be int64 [", shape.batch, "]");
    past.of_rows = past_tensor.data<int64_t>();
    for (int64_t row = 0; row < shape.batch; row++) {
        const int64_t columns = past[row] + tokens;
        PD_CHECK(past[row] >= 0 && columns <= shape.capacity, "row ", row, " has ", shape.capacity,
                 " columns: no room for ", tokens, " after ", past[row]);
        for (int64_t i = 0; i * kPageColumns < columns; i++) {
            const int64_t page = shape.table[row * width + i];
            PD_CHECK(page >= 0 && page < number, "page ", page, " of row ", row, ": there are ", number);
        }
    }
    key = const_cast<float*>(key_pages.data<float>());
    value = const_cast<float*>(value_pages.data<float>());
}

Rotary::Rotary(const Tensor& cos_tensor, const Tensor& sin_tensor, const CacheShape& cache, int64_t tokens) {
    check_float32(cos_tensor, "cos");
    check_float32(sin_tensor, "sin");
    half = cos_tensor.shape().back();
    PD_CHECK(cos_tensor.shape() == Shape({cache.batch, 1, tokens, half}) &&
                 cos_tensor.shape() == sin_tensor.shape() && 2 * half <= cache.head_dim,
             "cos and sin must be [batch, 1, tokens, at most head_dim / 2]");
    cos = cos_tensor.data<float>();
    sin = sin_tensor.data<float>();
}

Attention cache_attention(const float* query, int64_t heads, int64_t tokens, const Cache& cache,
                          const Tensor* mask, float scale, const std::string& arithmetic, float* output) {
    Attention attention{};
    attention.query = query;
    attention.key = cache.key;
    attention.value = cache.value;
    attention.cache = cache.shape;
    attention.past = cache.past;
    attention.heads = heads;
    attention.tokens = tokens;
    attention.scale = scale;
    attention.arithmetic = arithmetic_named(arithmetic);
    attention.output = output;
    if (mask == nullptr) return attention;
    check_float32(*mask, "mask");
    const int64_t columns = cache.past.same + tokens;
    const Shape shape = mask->shape();
    PD_CHECK(shape.size() == 4 && (shape[0] == cache.shape.batch || shape[0] == 1) && shape[1] == 1 &&
                 shape[2] == tokens && shape[3] >= columns,
             "mask must be [", cache.shape.batch, " or 1, 1, ", tokens, ", at least ", columns, "]");
    attention.mask = mask->data<float>();
    attention.mask_batch_stride = shape[0] == 1 ? 0 : tokens * shape[3];
    attention.mask_row_stride = shape[3];
    return attention;
}

int64_t axis_size(const Tensor& tensor, int64_t axis, size_t axes, const char* name) {
    PD_CHECK(tensor.shape().size() == axes, name, " must have ", axes, " axes, not ", tensor.shape().size());
    return tensor.shape()[axis];
}

std::vector<Tensor> append_rotary(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Cache& cache,
                                  int num_heads, int num_kv_heads) {
    check_float32(qkv, "qkv");
    const int64_t batch = qkv.shape()[0], tokens = qkv.shape()[1];
    const int64_t size = cache.shape.head_dim, channels = (num_heads + 2 * num_kv_heads) * size;
    PD_CHECK(cache.shape.batch == batch && cache.shape.kv_heads == num_kv_heads && qkv.shape()[2] == channels,
             "qkv must be [", cache.shape.batch, ", tokens, ", channels, "]");
    const Rotary rotary(cos, sin, cache.shape, tokens);
    Tensor query = paddle::empty({batch, num_heads, tokens, size}, DataType::FLOAT32, qkv.place());
    append_rotary(qkv.data<float>(), rotary.cos, rotary.sin, tokens, num_heads, rotary.half, cache.shape,
                  cache.past, cache.key, cache.value, query.data<float>());
    return {query};
}

void append_cache(const Tensor& key, const Tensor& value, const Cache& cache) {
    check_float32(key, "key");
    check_float32(value, "value");
    const CacheShape& sizes = cache.shape;
    const int64_t tokens = key.shape()[2];
    PD_CHECK(key.shape() == Shape({sizes.batch, sizes.kv_heads, tokens, sizes.head_dim}) &&
                 key.shape() == value.shape(),
             "key and value must be [", sizes.batch, ", ", sizes.kv_heads, ", tokens, ", sizes.head_dim, "]");
    append_cache(key.data<float>(), value.data<float>(), tokens, sizes, cache.past, cache.key, cache.value);
}

std::vector<Tensor> cached_attention(const Tensor& query, const Cache& cache, const Tensor* mask, float scale,
                                     const std::string& arithmetic) {
    check_float32(query, "query");
    const int64_t batch = query.shape()[0], heads = query.shape()[1], tokens = query.shape()[2];
    const CacheShape& sizes = cache.shape;
    PD_CHECK(sizes.batch == batch && sizes.head_dim == query.shape()[3] && heads % sizes.kv_heads == 0,
             "query must be [", sizes.batch, ", a multiple of ", sizes.kv_heads, ", tokens, ", sizes.head_dim,
             "]");
    Tensor output = paddle::empty({batch, tokens, heads * sizes.head_dim}, DataType::FLOAT32, query.place());
    attend(cache_attention(query.data<float>(), heads, tokens, cache, mask, scale, arithmetic,
                           output.data<float>()));
    return {output};
}

namespace {

std::vector<Tensor> rms_norm_op(const Tensor& x, const Tensor& weight, float epsilon) {
    check_float32(x, "x");
    const int64_t size = x.shape().back();
    const float* scale = float32_vector(weight, size, "weight");
    Tensor y = paddle::empty(x.shape(), DataType::FLOAT32, x.place());
    rms_norm(x.data<float>(), nullptr, scale, x.numel() / size, size, epsilon, nullptr, y.data<float>());
    return {y};
}

std::vector<Tensor> add_rms_norm_op(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                    float epsilon) {
    check_float32(x, "x");
    check_float32(residual, "residual");
    PD_CHECK(x.shape() == residual.shape(), "x and residual must have one shape");
    const int64_t size = x.shape().back();
    const float* scale = float32_vector(weight, size, "weight");
    Tensor sum = paddle::empty(x.shape(), DataType::FLOAT32, x.place());
    Tensor y = paddle::empty(x.shape(), DataType::FLOAT32, x.place());
    rms_norm(x.data<float>(), residual.data<float>(), scale, x.numel() / size, size, epsilon,
             sum.data<float>(), y.data<float>());
    return {sum, y};
}

Shape half_of_last(Shape shape) {
    shape.back() = shape.back() < 0 ? -1 : shape.back() / 2;
    return shape;
}

std::vector<Tensor> swiglu_op(const Tensor& x) {
    check_float32(x, "x");
    const Shape shape = half_of_last(x.shape());
    PD_CHECK(x.shape().back() % 2 == 0, "the last axis must be even, not ", x.shape().back());
    Tensor y = paddle::empty(shape, DataType::FLOAT32, x.place());
    swiglu(x.data<float>(), y.numel() / shape.back(), shape.back(), y.data<float>());
    return {y};
}

std::vector<Tensor> append_rotary_op(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                                     const Tensor& key, const Tensor& value, const Tensor& past,
                                     int num_heads, int num_kv_heads) {
    const Cache cache(key, value, past, axis_size(qkv, 1, 3, "qkv"));
    return append_rotary(qkv, cos, sin, cache, num_heads, num_kv_heads);
}

std::vector<Shape> append_rotary_shape(const Shape& qkv, const Shape&, const Shape&, const Shape& key,
                                       const Shape&, const Shape&, int num_heads, int) {
    return {{qkv[0], num_heads, qkv[1], key[3]}};
}

std::vector<Tensor> append_cache_op(const Tensor& key, const Tensor& value, const Tensor& key_buffer,
                                    const Tensor& value_buffer, const Tensor& past) {
    const Cache cache(key_buffer, value_buffer, past, axis_size(key, 2, 4, "key"));
    append_cache(key, value, cache);
    return {paddle::full({1}, cache.past.same, DataType::INT64, past.place())};
}

std::vector<Shape> append_cache_shape(const Shape&, const Shape&, const Shape&, const Shape&,
                                      const Shape& past) {
    return {past};
}

std::vector<DataType> past_dtype(DataType, DataType, DataType, DataType, DataType past) { return {past}; }

std::vector<Tensor> cached_attention_op(const Tensor& query, const Tensor& key, const Tensor& value,
                                        const Tensor& mask, const Tensor& past, float scale,
                                        const std::string& arithmetic) {
    const Cache cache(key, value, past, axis_size(query, 2, 4, "query"));
    return cached_attention(query, cache, &mask, scale, arithmetic);
}

std::vector<Shape> cached_attention_shape(const Shape& query, const Shape&, const Shape&, const Shape&,
                                          const Shape&, float, const std::string&) {
    return {{query[0], query[2], query[3] < 0 || query[1] < 0 ? -1 : query[1] * query[3]}};
}

std::vector<Shape> rms_norm_shape(const Shape& x, const Shape&, float) { return {x}; }
std::vector<Shape> add_rms_norm_shape(const Shape& x, const Shape&, const Shape&, float) { return {x, x}; }
std::vector<Shape> swiglu_shape(const Shape& x) { return {half_of_last(x)}; }

// The dtypes of results, by number of operands.
std::vector<DataType> dtype_of_1(DataType x) { return {x}; }
std::vector<DataType> dtype_of_2(DataType x, DataType) { return {x}; }
std::vector<DataType> two_dtypes_of_3(DataType x, DataType, DataType) { return {x, x}; }
std::vector<DataType> dtype_of_5(DataType x, DataType, DataType, DataType, DataType) { return {x}; }
std::vector<DataType> dtype_of_6(DataType x, DataType, DataType, DataType, DataType, DataType) { return {x}; }

}  // namespace
}  // namespace paddle_glm

PD_BUILD_OP(paddle_glm_rms_norm)
    .Inputs({"X", "Weight"})
    .Outputs({"Y"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddle_glm::rms_norm_op))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::rms_norm_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::dtype_of_2));

PD_BUILD_OP(paddle_glm_add_rms_norm)
    .Inputs({"X", "Residual", "Weight"})
    .Outputs({"Sum", "Y"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddle_glm::add_rms_norm_op))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::add_rms_norm_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::two_dtypes_of_3));

PD_BUILD_OP(paddle_glm_swiglu)
    .Inputs({"X"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(paddle_glm::swiglu_op))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::swiglu_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::dtype_of_1));

// Writes to KeyBuffer and ValueBuffer. What reads them takes Query too, so that it runs later.
PD_BUILD_OP(paddle_glm_append_rotary)
    .Inputs({"QKV", "Cos", "Sin", "KeyBuffer", "ValueBuffer", "Past"})
    .Outputs({"Query"})
    .Attrs({"num_heads: int", "num_kv_heads: int"})
    .SetKernelFn(PD_KERNEL(paddle_glm::append_rotary_op))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::append_rotary_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::dtype_of_6));

// Writes to KeyBuffer and ValueBuffer. SamePast is Past, for what reads them, so that it runs later.
PD_BUILD_OP(paddle_glm_append_cache)
    .Inputs({"Key", "Value", "KeyBuffer", "ValueBuffer", "Past"})
    .Outputs({"SamePast"})
    .SetKernelFn(PD_KERNEL(paddle_glm::append_cache_op))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::append_cache_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::past_dtype));

PD_BUILD_OP(paddle_glm_cached_attention)
    .Inputs({"Query", "KeyBuffer", "ValueBuffer", "Mask", "Past"})
    .Outputs({"Output"})
    .Attrs({"scale: float", "arithmetic: std::string"})
    .SetKernelFn(PD_KERNEL(paddle_glm::cached_attention_op))
    .SetInferShapeFn(PD_INFER_SHAPE(paddle_glm::cached_attention_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddle_glm::dtype_of_5));
