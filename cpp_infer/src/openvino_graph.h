#pragma once

#include <memory>
#include <string>
#include <vector>

#include "array_engine.h"

namespace paddle_glm {

// An input by name, borrowed for the call.
struct GraphInput {
    std::string name;
    bool is_int64;  // int64, otherwise float32
    std::vector<int64_t> shape;
    const void* data;
};

// An ONNX graph on OpenVINO, through its C interface: the pip wheel's C++ library has another layout of
// std::string than today's compilers. Throws std::runtime_error with the library's own words.
class OpenVinoGraph {
  public:
    OpenVinoGraph(const std::string& file, int threads);
    ~OpenVinoGraph();
    OpenVinoGraph(const OpenVinoGraph&) = delete;
    OpenVinoGraph& operator=(const OpenVinoGraph&) = delete;

    // What the graph takes: names and dtypes, no shapes.
    const std::vector<TensorMeta>& inputs() const { return inputs_; }
    // The graph's outputs, in its order.
    std::vector<HostTensor> infer(const std::vector<GraphInput>& inputs);

  private:
    struct Request;
    std::vector<TensorMeta> inputs_;
    std::unique_ptr<Request> request_;
};

}  // namespace paddle_glm
