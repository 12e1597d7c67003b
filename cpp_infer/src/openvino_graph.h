#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "array_engine.h"

namespace paddle_glm {

// A named input; the buffer is borrowed during the call.
struct GraphInput {
    std::string name;
    bool is_int64;  // int64, otherwise float32
    std::vector<int64_t> shape;
    const void* data;
};

// An ONNX graph on OpenVINO, through its C API: the pip wheel's C++ library uses the old std::string ABI.
// Throws std::runtime_error with the library's message.
class OpenVinoGraph {
  public:
    // settings: of OpenVINO's CPU plugin, beside and above the defaults.
    OpenVinoGraph(const std::string& file, int threads,
                  const std::map<std::string, std::string>& settings = {});
    ~OpenVinoGraph();
    OpenVinoGraph(const OpenVinoGraph&) = delete;
    OpenVinoGraph& operator=(const OpenVinoGraph&) = delete;

    // The graph's inputs: names and dtypes, no shapes.
    const std::vector<TensorMeta>& inputs() const { return inputs_; }
    // Runs the graph; returns its outputs in order, which are valid until the next but one call, and can be
    // the inputs of the next.
    std::vector<HostTensor> infer(const std::vector<GraphInput>& inputs);

  private:
    struct Request;
    std::vector<TensorMeta> inputs_;
    std::unique_ptr<Request> request_;
};

}  // namespace paddle_glm
