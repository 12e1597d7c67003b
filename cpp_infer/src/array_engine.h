#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine.h"

namespace paddle_glm {

// A float32 tensor in host memory; `data` owns the buffer.
struct HostTensor {
    std::vector<int64_t> shape;
    std::shared_ptr<const float> data;

    size_t size() const;
    // Zeros.
    static HostTensor make(std::vector<int64_t> shape, float*& values);
};

// Base of engines whose inputs and outputs are host arrays; the KV cache is the last step's output.
class ArrayEngine : public Engine {
  public:
    // supports_empty_past: whether the library accepts a past of length 0. If not, and without a prefix, the
    // cache starts with one column of zeros that the mask hides, as in paddle_glm/backends/exported.py.
    // Throws std::exception if caches are not float32.
    ArrayEngine(EngineConfig config, bool supports_empty_past);

    void reset(int64_t batch) override;
    std::vector<float> run(const std::vector<EngineInput>& inputs) override;
    void select(const std::vector<int64_t>& rows) override;

  protected:
    // Runs the graph on its int64 inputs and the caches, named as in config().caches; returns its outputs,
    // logits first.
    virtual std::vector<HostTensor> infer(const std::vector<EngineInput>& inputs,
                                          const std::vector<HostTensor>& past) = 0;
    const EngineConfig& config() const { return config_; }
    // Throws std::exception if the graph's input names or dtypes differ from config().
    void check_inputs(const std::vector<TensorMeta>& found) const;

  private:
    EngineConfig config_;
    bool dummy_column_;
    std::vector<HostTensor> past_;
};

}  // namespace paddle_glm
