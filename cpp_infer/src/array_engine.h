#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine.h"

namespace paddle_glm {

// A float32 tensor on the host; `data` keeps its numbers alive.
struct HostTensor {
    std::vector<int64_t> shape;
    std::shared_ptr<const float> data;

    size_t size() const;
    // Zeros.
    static HostTensor make(std::vector<int64_t> shape, float*& values);
};

// What engines share that take and give arrays on the host: the cache is what the last step gave.
class ArrayEngine : public Engine {
  public:
    // supports_empty_past: whether the library takes a past of length 0. Where it does not, and there is no
    // prefix, the cache begins with one column of zeros that the mask hides, as in
    // paddle_glm/backends/exported.py. Throws std::exception for caches of another dtype than float32.
    ArrayEngine(EngineConfig config, bool supports_empty_past);

    void reset(int64_t batch) override;
    std::vector<float> run(const std::vector<EngineInput>& inputs) override;
    void select(const std::vector<int64_t>& rows) override;

  protected:
    // The graph's outputs, logits first, for its int64 inputs and the caches, which have the names of
    // config().caches.
    virtual std::vector<HostTensor> infer(const std::vector<EngineInput>& inputs,
                                          const std::vector<HostTensor>& past) = 0;
    const EngineConfig& config() const { return config_; }
    // Throws std::exception where a graph takes other names or dtypes than config() says.
    void check_inputs(const std::vector<TensorMeta>& found) const;

  private:
    EngineConfig config_;
    bool dummy_column_;
    std::vector<HostTensor> past_;
};

}  // namespace paddle_glm
