// OpenVINO on an ONNX graph, on a CPU.

#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>

#include "openvino_graph.h"
#include "standard_streams.h"

namespace paddle_glm {
namespace {

// What products with integer weights are computed in: as in paddle_glm/backends/openvino.py.
std::map<std::string, std::string> arithmetic_settings(const EngineConfig& config) {
    if (config.target == "portable") return {};
    const char* variable = std::getenv("PADDLE_GLM_ARITHMETIC");
    const std::string asked = variable == nullptr ? "" : variable;
    if (asked == "bfloat16") return {{"INFERENCE_PRECISION_HINT", "bf16"}};
    if (asked == "float32") return {};
    if (asked.empty() || asked == "auto" || asked == "int8")
        return {{"DYNAMIC_QUANTIZATION_GROUP_SIZE", "32"}};
    throw std::runtime_error("PADDLE_GLM_ARITHMETIC=" + asked +
                             ": expected one of auto, int8, bfloat16, float32");
}

class OpenVinoEngine : public ArrayEngine {
  public:
    explicit OpenVinoEngine(const EngineConfig& config)
        : ArrayEngine(config, true), graph_(config.graph_file, config.threads, arithmetic_settings(config)) {
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
