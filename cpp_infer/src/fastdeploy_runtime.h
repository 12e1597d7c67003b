#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace paddle_glm {

// FastDeploy's Runtime without std::string: the library may have been compiled with the other layout of it,
// which OpenVINO's pip wheel has, and then fastdeploy_runtime.cc is too.

enum class FastDeployBackend { kOnnxRuntime, kOpenVino, kTensorRt };

struct FastDeployShapes {
    const char* name;
    std::vector<int32_t> smallest, usual, largest;
};

struct FastDeploySettings {
    const char* graph_file;
    FastDeployBackend backend;
    int threads;
    bool optimises;                        // whether ONNX Runtime rewrites the graph
    std::vector<FastDeployShapes> shapes;  // of the inputs, for TensorRT
};

struct FastDeployInput {
    const char* name;
    bool is_int64;  // int64, otherwise float32
    const std::vector<int64_t>* shape;
    const void* data;
};

struct FastDeployOutput {
    std::vector<int64_t> shape;
    std::shared_ptr<const float> data;
};

// An ONNX graph. Throws std::runtime_error with what to do, or with what the library says.
class FastDeployRuntime {
  public:
    explicit FastDeployRuntime(const FastDeploySettings& settings);
    ~FastDeployRuntime();
    FastDeployRuntime(const FastDeployRuntime&) = delete;
    FastDeployRuntime& operator=(const FastDeployRuntime&) = delete;

    int num_inputs() const;
    // Valid as long as this.
    const char* input_name(int index) const;
    const char* input_dtype(int index) const;
    // One step; the inputs are borrowed during the call.
    std::vector<FastDeployOutput> infer(const std::vector<FastDeployInput>& inputs);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace paddle_glm
