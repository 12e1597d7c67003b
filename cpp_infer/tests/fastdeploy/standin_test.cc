// Feeds the stand-in as src/engine_fastdeploy.cc must not, and exits with 0 where it returns false:
//   standin_test GRAPH (empty | dtype | name | count)
// The graph has two int64 inputs at least and float32 caches of 4 dimensions, the last two inputs.

#include <iostream>
#include <string>

#include "fastdeploy/runtime.h"

int main(int, char** arguments) {
    const std::string wrong = arguments[2];
    fastdeploy::RuntimeOption option;
    option.SetModelPath(arguments[1], "", fastdeploy::ModelFormat::ONNX);
    option.SetCpuThreadNum(1);
    option.UseOrtBackend();
    fastdeploy::Runtime runtime;
    if (!runtime.Init(option)) return 1;
    static int64_t zeros[1 << 16] = {};
    std::vector<fastdeploy::FDTensor> inputs, outputs;
    for (int index = 0; index < runtime.NumInputs(); ++index) {
        const fastdeploy::TensorInfo info = runtime.GetInputInfo(index);
        inputs.emplace_back(info.name);
        const bool cache = info.dtype == fastdeploy::FP32;
        const std::vector<int64_t> shape =
            cache ? std::vector<int64_t>{1, 2, wrong == "empty" ? 0 : 1, 16} : std::vector<int64_t>{1, 1};
        inputs.back().SetExternalData(shape, info.dtype, zeros);
    }
    if (wrong == "dtype") inputs[0].dtype = fastdeploy::INT32;
    if (wrong == "name") inputs[0].name = "other";
    if (wrong == "count") inputs.pop_back();
    return runtime.Infer(inputs, &outputs) ? 1 : 0;
}
