// Paddle Inference with `Predictor::Run` on tensors: handles would copy the cache twice per step.

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "allocator.h"
#include "engine.h"
#include "paddle_cache.h"
#include "standard_streams.h"
#ifdef PADDLE_GLM_SDK
#include "paddle_inference_api.h"
#else
#include "paddle_wheel_api.h"
#endif

namespace paddle_glm {
namespace {

constexpr const char* kPastLength = "past_length";  // PAST_LENGTH in Python
// Paddle frees a step's tensors in a thread of its own; waking it for each takes longer than small operators
// do.
constexpr const char* kFreedAtOnceGb = "0.015625";

paddle::Tensor input_tensor(const EngineInput& input) {
    paddle::Tensor tensor = host_tensor(input.name, *input.shape, paddle::DataType::INT64);
    std::copy(input.values->begin(), input.values->end(), tensor.data<int64_t>());
    return tensor;
}

paddle_infer::Config configuration(const EngineConfig& config) {
    paddle_infer::Config result(config.graph_file, config.weights_file);
    result.DisableGpu();
    // oneDNN recompiles its kernels for each cache length: 3-5 times slower.
    result.PADDLE_GLM_DISABLE_ONEDNN();
    result.SetCpuMathLibraryNumThreads(config.threads);
    result.DisableGlogInfo();
    // Paddle registers loaded operators for the intermediate representation that is on before it reads the
    // graph.
    result.EnableNewIR(true);
    // Constant folding would dequantise all weights at load time: two to eight times their memory on top.
    if (config.upcasts_weights) result.DeletePass("constant_folding_pass");
    return result;
}

// Loads the library of the graph's native operators; creating a predictor then registers them in Paddle.
void* load_operators(const std::string& library, int version) {
    void* handle =
        dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: Paddle keeps its functions
    if (handle == nullptr) throw std::runtime_error(dlerror());
    auto* found = reinterpret_cast<int (*)()>(dlsym(handle, "paddle_glm_operators_version"));
    if (found == nullptr) throw std::runtime_error(library + " is no library of native kernels");
    if (found() != version) {
        throw std::runtime_error("it needs version " + std::to_string(version) +
                                 " of the native CPU kernels, " + library + " has " +
                                 std::to_string(found()) + ": export the model again with this version");
    }
    return handle;
}

// Creates a predictor whose weights are in huge pages: HugePages of the native kernels.
std::shared_ptr<paddle_infer::Predictor> in_huge_pages(void* kernels, const EngineConfig& config) {
    auto* begin = reinterpret_cast<void* (*)(int64_t)>(dlsym(kernels, "paddle_glm_begin_huge_pages"));
    auto* end = reinterpret_cast<void (*)(void*)>(dlsym(kernels, "paddle_glm_end_huge_pages"));
    const std::unique_ptr<void, void (*)(void*)> pages(
        begin(static_cast<int64_t>(std::filesystem::file_size(config.weights_file))), end);
    return paddle_infer::CreatePredictor(configuration(config));
}

std::shared_ptr<paddle_infer::Predictor> predictor(const EngineConfig& config) {
    setenv("FLAGS_eager_delete_tensor_gb", kFreedAtOnceGb, 0);
    auto result = config.operators > 0
                      ? in_huge_pages(load_operators(config.kernels_library, config.operators), config)
                      : paddle_infer::CreatePredictor(configuration(config));
    // Paddle frees a step's blocks in a separate thread, so how many it holds at once depends on scheduling.
    keep_freed_memory();
    return result;
}

class PaddleEngine : public Engine {
  public:
    explicit PaddleEngine(const EngineConfig& config)
        : in_place_(config.operators > 0),
          cache_(config.caches, config.prefix_length),
          predictor_(predictor(config)) {}

    void reset(int64_t batch) override { cache_.reset(batch); }

    std::vector<float> run(const std::vector<EngineInput>& inputs) override {
        std::vector<paddle::Tensor> tensors, outputs;
        for (const EngineInput& input : inputs) tensors.push_back(input_tensor(input));
        if (in_place_) {
            paddle::Tensor past = host_tensor(kPastLength, {1}, paddle::DataType::INT64);
            *past.data<int64_t>() = cache_.reserve(inputs.at(0).shape->at(1));
            tensors.push_back(past);
        }
        tensors.insert(tensors.end(), cache_.tensors().begin(), cache_.tensors().end());
        if (!predictor_->Run(tensors, &outputs) || outputs.size() != 1 + (in_place_ ? 0 : cache_.size())) {
            throw std::runtime_error("Paddle Inference could not compute a step");
        }
        // Outputs share the predictor's memory, which the next step overwrites.
        for (size_t index = 1; index < outputs.size(); ++index) cache_.replace(index - 1, outputs[index]);
        const float* logits = outputs[0].data<float>();
        return {logits, logits + outputs[0].numel()};
    }

    void select(const std::vector<int64_t>& rows) override { cache_.select(rows); }

  private:
    bool in_place_;  // the graph writes to the cache
    PaddleCache cache_;
    std::shared_ptr<paddle_infer::Predictor> predictor_;
};

}  // namespace
}  // namespace paddle_glm

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    paddle_glm::make_standard_streams();
    return new paddle_glm::PaddleEngine(config);
}
