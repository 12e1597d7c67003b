#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine.h"
#include "paddle/phi/api/all.h"

namespace paddle_glm {

// An uninitialised tensor in host memory.
paddle::Tensor host_tensor(const std::string& name, const std::vector<int64_t>& shape, paddle::DataType type);

// The KV cache as Paddle tensors, [batch, key/value heads, columns, head_dim], in the order of the graph's
// inputs.
class PaddleCache {
  public:
    PaddleCache(std::vector<CacheSpec> specs, int64_t prefix_length);

    // The initial content for `batch` rows: empty, or the prefix.
    void reset(int64_t batch);
    // Row i becomes the former row rows[i].
    void select(const std::vector<int64_t>& rows);
    const std::vector<paddle::Tensor>& tensors() const { return tensors_; }
    size_t size() const { return specs_.size(); }

    // Takes a copy of one tensor's longer content.
    void replace(size_t index, const paddle::Tensor& content);

    // For graphs that write to the tensors: makes room for `tokens` columns behind those in use, which then
    // count as in use. Returns how many were. As `BufferLayer.reserve` in Python.
    int64_t reserve(int64_t tokens);

  private:
    std::vector<CacheSpec> specs_;
    int64_t prefix_length_, length_ = 0;
    std::vector<paddle::Tensor> tensors_;
};

}  // namespace paddle_glm
