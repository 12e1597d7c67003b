#include "paddle_cache.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace paddle_glm {
namespace {

constexpr int64_t kBlock = 128;  // columns by which decoding grows the buffers: BLOCK in Python

paddle::DataType data_type(const std::string& name) {
    if (name == "float32") return paddle::DataType::FLOAT32;
    if (name == "float16") return paddle::DataType::FLOAT16;
    if (name == "bfloat16") return paddle::DataType::BFLOAT16;
    throw std::runtime_error("a cache of " + name + " is not supported");
}

template <class Number>
void fill(paddle::Tensor& tensor, const std::vector<float>& row, int64_t batch) {
    auto* place = tensor.data<Number>();
    for (int64_t index = 0; index < batch; ++index) {
        place =
            std::transform(row.begin(), row.end(), place, [](float one) { return static_cast<Number>(one); });
    }
}

paddle::Tensor initial_cache(const CacheSpec& cache, int64_t batch, int64_t length) {
    const paddle::DataType type = data_type(cache.dtype);
    paddle::Tensor tensor =
        host_tensor(cache.name, {batch, cache.shape.at(1), length, cache.shape.at(3)}, type);
    if (length == 0) return tensor;
    if (type == paddle::DataType::FLOAT16) fill<phi::dtype::float16>(tensor, cache.prefix_values, batch);
    if (type == paddle::DataType::BFLOAT16) fill<phi::dtype::bfloat16>(tensor, cache.prefix_values, batch);
    if (type == paddle::DataType::FLOAT32) fill<float>(tensor, cache.prefix_values, batch);
    return tensor;
}

paddle::Tensor selected(const paddle::Tensor& tensor, const std::vector<int64_t>& rows) {
    std::vector<int64_t> shape = tensor.shape();
    const size_t bytes = tensor.numel() / shape[0] * phi::SizeOf(tensor.dtype());
    shape[0] = static_cast<int64_t>(rows.size());
    paddle::Tensor result = host_tensor(tensor.name(), shape, tensor.dtype());
    const auto* from = static_cast<const char*>(tensor.data());
    auto* to = static_cast<char*>(result.data());
    for (size_t row = 0; row < rows.size(); ++row) {
        std::memcpy(to + row * bytes, from + rows[row] * bytes, bytes);
    }
    return result;
}

// A tensor of `capacity` columns with a copy of the first `length`.
paddle::Tensor grown(const paddle::Tensor& tensor, int64_t length, int64_t capacity) {
    std::vector<int64_t> shape = tensor.shape();
    const size_t column = shape[3] * phi::SizeOf(tensor.dtype());
    const size_t old_stride = shape[2] * column, new_stride = capacity * column;
    shape[2] = capacity;
    paddle::Tensor result = host_tensor(tensor.name(), shape, tensor.dtype());
    if (length == 0) return result;
    const auto* from = static_cast<const char*>(tensor.data());
    auto* to = static_cast<char*>(result.data());
    for (int64_t head = 0; head < shape[0] * shape[1]; ++head) {
        std::memcpy(to + head * new_stride, from + head * old_stride, length * column);
    }
    return result;
}

}  // namespace

paddle::Tensor host_tensor(const std::string& name, const std::vector<int64_t>& shape,
                           paddle::DataType type) {
    paddle::Tensor tensor = paddle::empty(shape, type, phi::CPUPlace());
    tensor.set_name(name);
    return tensor;
}

PaddleCache::PaddleCache(std::vector<CacheSpec> specs, int64_t prefix_length)
    : specs_(std::move(specs)), prefix_length_(prefix_length) {}

void PaddleCache::reset(int64_t batch) {
    tensors_.clear();
    length_ = prefix_length_;
    for (const CacheSpec& spec : specs_) tensors_.push_back(initial_cache(spec, batch, prefix_length_));
}

void PaddleCache::select(const std::vector<int64_t>& rows) {
    for (paddle::Tensor& tensor : tensors_) tensor = selected(tensor, rows);
}

void PaddleCache::replace(size_t index, const paddle::Tensor& content) {
    tensors_[index] = content.copy_to(phi::CPUPlace(), true);
    tensors_[index].set_name(specs_[index].name);
}

int64_t PaddleCache::reserve(int64_t tokens) {
    const int64_t used = length_, needed = length_ + tokens;
    length_ = needed;
    const int64_t capacity = tokens == 1 ? (needed + kBlock - 1) / kBlock * kBlock : needed;
    for (paddle::Tensor& tensor : tensors_) {
        if (needed > tensor.shape()[2]) tensor = grown(tensor, used, capacity);
    }
    return used;
}

}  // namespace paddle_glm
