// Declarations of the Paddle Inference functions exported by the pip wheel's libpaddle.so, which ships
// without headers (nm -DC base/libpaddle.so | grep paddle_infer). Nothing depends on object layouts:
// AnalysisConfig is storage for the library's own constructor, which fills at most 1631 bytes in 3.0 to 3.3,
// and Predictor is used only through a pointer.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace paddle {

class Tensor;

struct AnalysisConfig {
    AnalysisConfig(const std::string& graph_file, const std::string& weights_file);
    AnalysisConfig(const AnalysisConfig&);
    ~AnalysisConfig();
    void DisableGpu();
    void PADDLE_GLM_DISABLE_ONEDNN();  // the build detects which of two names this version has
    void SetCpuMathLibraryNumThreads(int);
    void DisableGlogInfo();
    void DeletePass(const std::string&);
    void EnableNewIR(bool);

  private:
    alignas(64) std::byte room_[16384];
};

}  // namespace paddle

namespace paddle_infer {

using Config = paddle::AnalysisConfig;

class Predictor {
  public:
    Predictor() = delete;
    bool Run(const std::vector<paddle::Tensor>& inputs, std::vector<paddle::Tensor>* outputs);
};

std::shared_ptr<Predictor> CreatePredictor(const Config&);

}  // namespace paddle_infer
