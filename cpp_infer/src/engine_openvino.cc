// OpenVINO on an ONNX graph, on a CPU.

#include "openvino_graph.h"
#include "standard_streams.h"

namespace paddle_glm {
namespace {

class OpenVinoEngine : public ArrayEngine {
  public:
    explicit OpenVinoEngine(const EngineConfig& config)
        : ArrayEngine(config, true), graph_(config.graph_file, config.threads) {
        check_inputs(graph_.inputs());
    }

  protected:
    std::vector<HostTensor> infer(const std::vector<EngineInput>& inputs,
                                  const std::vector<HostTensor>& past) override {
        std::vector<GraphInput> all;
        for (const EngineInput& one : inputs) {
            all.push_back({one.name, true, *one.shape, one.values->data()});
        }
        for (size_t index = 0; index < past.size(); ++index) {
            all.push_back({config().caches[index].name, false, past[index].shape, past[index].data.get()});
        }
        return graph_.infer(all);
    }

  private:
    OpenVinoGraph graph_;
};

}  // namespace
}  // namespace paddle_glm

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    paddle_glm::make_standard_streams();
    return new paddle_glm::OpenVinoEngine(config);
}
