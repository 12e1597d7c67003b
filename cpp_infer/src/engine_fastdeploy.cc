// FastDeploy 1.x Runtime on an ONNX graph. It aborts the process on some invalid inputs, so inputs are
// checked here: contiguous, int64 or float32, and no dimension of size 0.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "array_engine.h"
#include "fastdeploy_runtime.h"
#include "standard_streams.h"

namespace paddle_glm {
namespace {

// Batch size and length of TensorRT's optimization profile; it rebuilds its engine beyond them.
constexpr int64_t kTensorRtBatch = 8;
constexpr int64_t kTensorRtLength = 2048;

// FastDeploy hands ONNX Runtime the bytes of the graph, and weights in a file of their own are then looked
// for in the working directory.
class WorkingDirectory {
  public:
    explicit WorkingDirectory(const std::filesystem::path& folder)
        : previous_(std::filesystem::current_path()) {
        std::filesystem::current_path(folder);
    }
    ~WorkingDirectory() {
        std::error_code ignored;
        std::filesystem::current_path(previous_, ignored);
    }
    WorkingDirectory(const WorkingDirectory&) = delete;
    WorkingDirectory& operator=(const WorkingDirectory&) = delete;

  private:
    std::filesystem::path previous_;
};

// A shape with `batch` and `length` filled in for its dynamic dimensions; the batch is first.
std::vector<int32_t> resolve_shape(const TensorMeta& tensor, int64_t batch, int64_t length) {
    std::vector<int32_t> result(tensor.shape.begin(), tensor.shape.end());
    std::replace(result.begin() + 1, result.end(), -1, static_cast<int32_t>(length));
    result.front() = static_cast<int32_t>(batch);
    return result;
}

std::vector<FastDeployShapes> tensorrt_shapes(const EngineConfig& config) {
    const int64_t length = std::min(config.max_length, kTensorRtLength);
    std::vector<FastDeployShapes> result;
    const auto add = [&](const TensorMeta& tensor) {
        result.push_back({tensor.name.c_str(), resolve_shape(tensor, 1, 1),
                          resolve_shape(tensor, 1, (length + 1) / 2),
                          resolve_shape(tensor, kTensorRtBatch, length)});
    };
    for (const TensorMeta& one : config.token_inputs) add(one);
    for (const CacheSpec& one : config.caches) add(one);
    return result;
}

// The backend asked for, or the graph's. Which runs which target: as in paddle_glm/backends/fastdeploy.py.
FastDeployBackend choose_backend(const std::string& name, const std::string& target) {
    if (name.empty())
        return target == "openvino" ? FastDeployBackend::kOpenVino : FastDeployBackend::kOnnxRuntime;
    if (name == "openvino") return FastDeployBackend::kOpenVino;
    const auto refused = [&](const std::string& targets, const std::string& fitting) {
        return std::runtime_error("it was exported with --target " + target + ", which backend " + name +
                                  " cannot run: take --backend " + fitting +
                                  ", or export the model again with --target " + targets);
    };
    if (name == "onnx_runtime") {
        if (target == "openvino") throw refused("portable or onnxruntime", "openvino");
        return FastDeployBackend::kOnnxRuntime;
    }
    if (name == "tensorrt") {
        if (target != "portable") {
            throw refused("portable", target == "openvino" ? "openvino" : "onnx_runtime or openvino");
        }
        return FastDeployBackend::kTensorRt;
    }
    if (name == "paddle" || name == "paddle_tensorrt") {
        throw std::runtime_error("backend " + name +
                                 " reads .pdmodel files, which Paddle 3 cannot write for these models: "
                                 "expected onnx_runtime, openvino or tensorrt");
    }
    throw std::runtime_error("backend " + name + " is unknown: expected onnx_runtime, openvino or tensorrt");
}

// FastDeploy passes OpenVINO no arithmetic, and by itself it rounds activations beside integers to int8.
void check_arithmetic(const EngineConfig& config) {
    const char* variable = std::getenv("PADDLE_GLM_ARITHMETIC");
    const std::string asked = variable == nullptr ? "" : variable;
    if (!config.quantised || config.target == "portable") return;
    if (asked.empty() || asked == "auto" || asked == "int8") return;
    throw std::runtime_error("PADDLE_GLM_ARITHMETIC=" + asked +
                             ": FastDeploy cannot tell OpenVINO, which computes --target " + config.target +
                             " in int8: unset it, or take --engine openvino");
}

std::unique_ptr<FastDeployRuntime> open_runtime(const EngineConfig& config) {
    FastDeploySettings settings{};
    settings.backend = choose_backend(config.backend, config.target);
    settings.threads = config.threads;
    // Level 1 folds the dequantisation of weights into float constants.
    settings.optimises = !config.quantised || config.target != "portable";
    if (settings.backend == FastDeployBackend::kTensorRt) settings.shapes = tensorrt_shapes(config);
    if (settings.backend == FastDeployBackend::kOpenVino) {
        check_arithmetic(config);
        // OpenVINO computes in bfloat16 where the processor can, and FastDeploy has no option that tells it
        // not to.
        setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", /*overwrite=*/0);
    }
    const std::filesystem::path graph = std::filesystem::absolute(config.graph_file);
    settings.graph_file = graph.c_str();
    const WorkingDirectory guard(graph.parent_path());
    return std::make_unique<FastDeployRuntime>(settings);
}

class FastDeployEngine : public ArrayEngine {
  public:
    explicit FastDeployEngine(const EngineConfig& config)
        : ArrayEngine(config, false), runtime_(open_runtime(config)) {
        std::vector<TensorMeta> found;
        for (int index = 0; index < runtime_->num_inputs(); ++index) {
            found.push_back({runtime_->input_name(index), runtime_->input_dtype(index), {}});
        }
        check_inputs(found);
    }

  protected:
    std::vector<HostTensor> infer(const std::vector<EngineInput>& inputs,
                                  const std::vector<HostTensor>& past) override {
        std::vector<FastDeployInput> given;
        for (const EngineInput& one : inputs)
            given.push_back({one.name, true, one.shape, one.values->data()});
        for (size_t index = 0; index < past.size(); ++index) {
            given.push_back(
                {config().caches[index].name.c_str(), false, &past[index].shape, past[index].data.get()});
        }
        std::vector<HostTensor> result;
        for (FastDeployOutput& one : runtime_->infer(given)) result.push_back({one.shape, one.data});
        return result;
    }

  private:
    std::unique_ptr<FastDeployRuntime> runtime_;
};

}  // namespace
}  // namespace paddle_glm

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    paddle_glm::make_standard_streams();
    return new paddle_glm::FastDeployEngine(config);
}
