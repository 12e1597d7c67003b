#include "fastdeploy_runtime.h"

#include <iostream>
#include <stdexcept>
#include <string>

#include "fastdeploy/runtime.h"

namespace paddle_glm {
namespace {

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

fastdeploy::RuntimeOption runtime_option(const FastDeploySettings& settings) {
    fastdeploy::RuntimeOption option;
    option.SetModelPath(settings.graph_file, "", fastdeploy::ModelFormat::ONNX);
    fastdeploy::Backend backend = fastdeploy::Backend::ORT;
    if (settings.backend == FastDeployBackend::kOpenVino) backend = fastdeploy::Backend::OPENVINO;
    if (settings.backend == FastDeployBackend::kTensorRt) backend = fastdeploy::Backend::TRT;
    for (const FastDeployShapes& one : settings.shapes) {
        option.SetTrtInputShape(one.name, one.smallest, one.usual, one.largest);
    }
    // Choosing a backend that is missing ends the process.
    if (!fastdeploy::IsBackendAvailable(backend)) {
        static const char* const kNames[] = {"onnx_runtime", "openvino", "tensorrt"};
        throw std::runtime_error(std::string("this FastDeploy was built without the backend ") +
                                 kNames[static_cast<int>(settings.backend)]);
    }
    if (backend == fastdeploy::Backend::TRT) {
        option.UseGpu(0);
        option.UseTrtBackend();
        return option;
    }
    option.UseCpu();
    option.SetCpuThreadNum(settings.threads);
    if (backend == fastdeploy::Backend::OPENVINO) {
        option.UseOpenVINOBackend();
    } else {
        option.UseOrtBackend();
        if (!settings.optimises) option.SetOrtGraphOptLevel(0);
    }
    return option;
}

const char* name_of(fastdeploy::FDDataType type) {
    if (type == fastdeploy::FDDataType::INT64) return "int64";
    return type == fastdeploy::FDDataType::FP32 ? "float32" : "another type";
}

}  // namespace

struct FastDeployRuntime::State {
    fastdeploy::Runtime runtime;
    std::vector<fastdeploy::TensorInfo> inputs;
};

FastDeployRuntime::FastDeployRuntime(const FastDeploySettings& settings) : state_(new State) {
    const LogToStandardError guard;
    if (!state_->runtime.Init(runtime_option(settings)))
        throw std::runtime_error("its log says what FastDeploy lacks");
    for (int index = 0; index < state_->runtime.NumInputs(); ++index) {
        state_->inputs.push_back(state_->runtime.GetInputInfo(index));
    }
}

FastDeployRuntime::~FastDeployRuntime() = default;

int FastDeployRuntime::num_inputs() const { return static_cast<int>(state_->inputs.size()); }
const char* FastDeployRuntime::input_name(int index) const { return state_->inputs.at(index).name.c_str(); }
const char* FastDeployRuntime::input_dtype(int index) const {
    return name_of(state_->inputs.at(index).dtype);
}

std::vector<FastDeployOutput> FastDeployRuntime::infer(const std::vector<FastDeployInput>& inputs) {
    const LogToStandardError guard;
    std::vector<fastdeploy::FDTensor> tensors;
    for (const FastDeployInput& one : inputs) {
        tensors.emplace_back(std::string(one.name));
        const auto type = one.is_int64 ? fastdeploy::FDDataType::INT64 : fastdeploy::FDDataType::FP32;
        tensors.back().SetExternalData(*one.shape, type, const_cast<void*>(one.data));
    }
    const auto outputs = std::make_shared<std::vector<fastdeploy::FDTensor>>();
    if (!state_->runtime.Infer(tensors, outputs.get())) {
        throw std::runtime_error("FastDeploy could not compute a step: its log says why");
    }
    std::vector<FastDeployOutput> result;
    for (fastdeploy::FDTensor& one : *outputs) {
        if (one.dtype != fastdeploy::FDDataType::FP32)
            throw std::runtime_error("output " + one.name + " is not float32");
        result.push_back({one.shape, {outputs, static_cast<const float*>(one.Data())}});
    }
    return result;
}

}  // namespace paddle_glm
