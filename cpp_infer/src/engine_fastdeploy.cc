// FastDeploy 1.x Runtime on an ONNX graph. It aborts the process on invalid input, so inputs are checked
// here: contiguous, int64 or float32, and no dimension of size 0.

#include <algorithm>
#include <iostream>
#include <stdexcept>
#include <string>

#include "array_engine.h"
#include "fastdeploy/runtime.h"
#include "standard_streams.h"

namespace paddle_glm {
namespace {

// Batch size and length of TensorRT's optimization profile; it rebuilds its engine beyond them.
constexpr int64_t kTensorRtBatch = 8;
constexpr int64_t kTensorRtLength = 2048;

// Its log goes to standard output, like the answers.
class LogToStandardError {
  public:
    LogToStandardError() : previous_(std::cout.rdbuf(std::cerr.rdbuf())) {}
    ~LogToStandardError() { std::cout.rdbuf(previous_); }
    LogToStandardError(const LogToStandardError&) = delete;
    LogToStandardError& operator=(const LogToStandardError&) = delete;

  private:
    std::streambuf* previous_;
};

// A shape with `batch` and `length` filled in for its dynamic dimensions; the batch is first.
std::vector<int32_t> resolve_shape(const TensorMeta& tensor, int64_t batch, int64_t length) {
    std::vector<int32_t> result(tensor.shape.begin(), tensor.shape.end());
    std::replace(result.begin() + 1, result.end(), -1, static_cast<int32_t>(length));
    result.front() = static_cast<int32_t>(batch);
    return result;
}

void use_tensorrt(fastdeploy::RuntimeOption& option, const EngineConfig& config) {
    option.UseGpu(0);
    option.UseTrtBackend();
    const int64_t length = std::min(config.max_length, kTensorRtLength);
    const auto set = [&](const TensorMeta& tensor) {
        option.SetTrtInputShape(tensor.name, resolve_shape(tensor, 1, 1),
                                resolve_shape(tensor, 1, (length + 1) / 2),
                                resolve_shape(tensor, kTensorRtBatch, length));
    };
    for (const TensorMeta& one : config.token_inputs) set(one);
    for (const CacheSpec& one : config.caches) set(one);
}

fastdeploy::RuntimeOption runtime_option(const EngineConfig& config) {
    fastdeploy::RuntimeOption option;
    option.SetModelPath(config.graph_file, "", fastdeploy::ModelFormat::ONNX);
    option.UseCpu();
    option.SetCpuThreadNum(config.threads);
    const std::string& name = config.backend;
    if (name.empty() || name == "onnx_runtime") {
        option.UseOrtBackend();
        // Optimisation level 0: level 1 folds the dequantisation of weights into float constants.
        if (config.quantised) option.SetOrtGraphOptLevel(0);
    } else if (name == "openvino") {
        option.UseOpenVINOBackend();
    } else if (name == "tensorrt") {
        use_tensorrt(option, config);
    } else if (name == "paddle" || name == "paddle_tensorrt") {
        throw std::runtime_error("backend " + name +
                                 " reads .pdmodel files, which Paddle 3 cannot write for these models: "
                                 "expected onnx_runtime, openvino or tensorrt");
    } else {
        throw std::runtime_error("backend " + name +
                                 " is unknown: expected onnx_runtime, openvino or tensorrt");
    }
    if (!fastdeploy::IsBackendAvailable(option.backend)) {
        throw std::runtime_error("this FastDeploy was built without the backend " +
                                 (name.empty() ? "onnx_runtime" : name));
    }
    return option;
}

const char* name_of(fastdeploy::FDDataType type) {
    if (type == fastdeploy::FDDataType::INT64) return "int64";
    return type == fastdeploy::FDDataType::FP32 ? "float32" : "another type";
}

fastdeploy::FDTensor borrowed(const std::string& name, const std::vector<int64_t>& shape,
                              fastdeploy::FDDataType type, const void* data) {
    fastdeploy::FDTensor tensor(name);
    tensor.SetExternalData(shape, type, const_cast<void*>(data));
    return tensor;
}

class FastDeployEngine : public ArrayEngine {
  public:
    explicit FastDeployEngine(const EngineConfig& config) : ArrayEngine(config, false) {
        const LogToStandardError guard;
        if (!runtime_.Init(runtime_option(config)))
            throw std::runtime_error("its log says what FastDeploy lacks");
        std::vector<TensorMeta> found;
        for (int index = 0; index < runtime_.NumInputs(); ++index) {
            const fastdeploy::TensorInfo info = runtime_.GetInputInfo(index);
            found.push_back({info.name, name_of(info.dtype), {}});
        }
        check_inputs(found);
    }

  protected:
    std::vector<HostTensor> infer(const std::vector<EngineInput>& inputs,
                                  const std::vector<HostTensor>& past) override {
        const LogToStandardError guard;
        std::vector<fastdeploy::FDTensor> tensors;
        for (const EngineInput& one : inputs) {
            tensors.push_back(
                borrowed(one.name, *one.shape, fastdeploy::FDDataType::INT64, one.values->data()));
        }
        for (size_t index = 0; index < past.size(); ++index) {
            tensors.push_back(borrowed(config().caches[index].name, past[index].shape,
                                       fastdeploy::FDDataType::FP32, past[index].data.get()));
        }
        const auto outputs = std::make_shared<std::vector<fastdeploy::FDTensor>>();
        if (!runtime_.Infer(tensors, outputs.get())) {
            throw std::runtime_error("FastDeploy could not compute a step: its log says why");
        }
        std::vector<HostTensor> result;
        for (fastdeploy::FDTensor& one : *outputs) {
            if (one.dtype != fastdeploy::FDDataType::FP32)
                throw std::runtime_error("output " + one.name + " is not float32");
            result.push_back({one.shape, {outputs, static_cast<const float*>(one.Data())}});
        }
        return result;
    }

  private:
    fastdeploy::Runtime runtime_;
};

}  // namespace
}  // namespace paddle_glm

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    paddle_glm::make_standard_streams();
    return new paddle_glm::FastDeployEngine(config);
}
