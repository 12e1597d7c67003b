// Paddle Inference with `Predictor::Run` on tensors: handles would copy the cache twice per step.

#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "engine.h"
#include "paddle/phi/api/all.h"
#include "standard_streams.h"
#ifdef PADDLE_GLM_SDK
#include "paddle_inference_api.h"
#else
#include "paddle_wheel_api.h"
#endif

namespace paddle_glm {
namespace {

paddle::DataType data_type(const std::string& name) {
    if (name == "float32") return paddle::DataType::FLOAT32;
    if (name == "float16") return paddle::DataType::FLOAT16;
    if (name == "bfloat16") return paddle::DataType::BFLOAT16;
    throw std::runtime_error("a cache of " + name + " is not supported");
}

paddle::Tensor host_tensor(const std::string& name, const std::vector<int64_t>& shape,
                           paddle::DataType type) {
    paddle::Tensor tensor = paddle::empty(shape, type, phi::CPUPlace());
    tensor.set_name(name);
    return tensor;
}

paddle::Tensor host_tensor(const EngineInput& input) {
    paddle::Tensor tensor = host_tensor(input.name, *input.shape, paddle::DataType::INT64);
    std::copy(input.values->begin(), input.values->end(), tensor.data<int64_t>());
    return tensor;
}

template <class Number>
void fill(paddle::Tensor& tensor, const std::vector<float>& row, int64_t batch) {
    auto* place = tensor.data<Number>();
    for (int64_t index = 0; index < batch; ++index) {
        place =
            std::transform(row.begin(), row.end(), place, [](float one) { return static_cast<Number>(one); });
    }
}

// The initial cache.
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

// Each step dequantises or upcasts weights into temporary blocks. By default malloc returns blocks of that
// size to the system, which costs more than the step; see paddle_glm/allocator.py. Paddle frees the blocks in
// a separate thread, so how many a step holds at once depends on scheduling.
void keep_freed_memory() {
    constexpr int kTrimThreshold = 512 << 20;
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, kTrimThreshold);
}

paddle_infer::Config configuration(const EngineConfig& config) {
    paddle_infer::Config result(config.graph_file, config.weights_file);
    result.DisableGpu();
    // oneDNN recompiles its kernels for each cache length: 3-5 times slower.
    result.PADDLE_GLM_DISABLE_ONEDNN();
    result.SetCpuMathLibraryNumThreads(config.threads);
    result.DisableGlogInfo();
    // Constant folding would dequantise all weights at load time: two to eight times their memory on top.
    if (config.upcasts_weights) {
        result.DeletePass("constant_folding_pass");
        keep_freed_memory();
    }
    return result;
}

class PaddleEngine : public Engine {
  public:
    explicit PaddleEngine(const EngineConfig& config)
        : caches_(config.caches),
          prefix_length_(config.prefix_length),
          predictor_(paddle_infer::CreatePredictor(configuration(config))) {}

    void reset(int64_t batch) override {
        past_.clear();
        for (const CacheSpec& cache : caches_) past_.push_back(initial_cache(cache, batch, prefix_length_));
    }

    std::vector<float> run(const std::vector<EngineInput>& inputs) override {
        std::vector<paddle::Tensor> tensors, outputs;
        for (const EngineInput& input : inputs) tensors.push_back(host_tensor(input));
        tensors.insert(tensors.end(), past_.begin(), past_.end());
        if (!predictor_->Run(tensors, &outputs) || outputs.size() != past_.size() + 1) {
            throw std::runtime_error("Paddle Inference could not compute a step");
        }
        for (size_t index = 0; index < past_.size(); ++index) {
            // Outputs share the predictor's memory, which the next step overwrites.
            past_[index] = outputs[index + 1].copy_to(phi::CPUPlace(), true);
            past_[index].set_name(caches_[index].name);
        }
        const float* logits = outputs[0].data<float>();
        return {logits, logits + outputs[0].numel()};
    }

    void select(const std::vector<int64_t>& rows) override {
        for (paddle::Tensor& tensor : past_) tensor = selected(tensor, rows);
    }

  private:
    static paddle::Tensor selected(const paddle::Tensor& tensor, const std::vector<int64_t>& rows) {
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

    std::vector<CacheSpec> caches_;
    int64_t prefix_length_;
    std::shared_ptr<paddle_infer::Predictor> predictor_;
    std::vector<paddle::Tensor> past_;
};

}  // namespace
}  // namespace paddle_glm

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    paddle_glm::make_standard_streams();
    return new paddle_glm::PaddleEngine(config);
}
