// The part of FastDeploy 1.x's C++ API that src/engine_fastdeploy.cc uses, declared from its headers
// (fastdeploy/runtime/runtime.h, runtime_option.h, core/fd_tensor.h of release 1.0 and 1.1), for tests: a
// real build takes the SDK's own. Members that are not used are left out.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fastdeploy {

enum Device { CPU, GPU };
enum Backend { UNKNOWN, ORT, TRT, PDINFER, POROS, OPENVINO };
bool IsBackendAvailable(const Backend& backend);
enum ModelFormat { AUTOREC, PADDLE, ONNX };
enum FDDataType { BOOL, INT16, INT32, INT64, FP16, FP32, FP64 };

struct TensorInfo {
    std::string name;
    std::vector<int> shape;
    FDDataType dtype;
};

struct FDTensor {
    void* buffer_ = nullptr;
    std::vector<int64_t> shape = {0};
    std::string name;
    FDDataType dtype = FDDataType::INT32;
    void* external_data_ptr = nullptr;
    Device device = Device::CPU;

    FDTensor() = default;
    explicit FDTensor(const std::string& tensor_name);
    FDTensor(const FDTensor& other);
    FDTensor(FDTensor&& other) noexcept;
    FDTensor& operator=(const FDTensor& other);
    FDTensor& operator=(FDTensor&& other) noexcept;
    ~FDTensor();

    void* Data();
    void SetExternalData(const std::vector<int64_t>& new_shape, const FDDataType& data_type,
                         void* data_buffer, const Device& new_device = Device::CPU, int new_device_id = -1);
    void Resize(const std::vector<int64_t>& new_shape, const FDDataType& data_type,
                const std::string& tensor_name = "", const Device& new_device = Device::CPU);
    int Nbytes() const;
};

struct RuntimeOption {
    void SetModelPath(const std::string& model_path, const std::string& params_path = "",
                      const ModelFormat& format = ModelFormat::PADDLE);
    void UseCpu();
    void UseGpu(int gpu_id = 0);
    void SetCpuThreadNum(int thread_num);
    void SetOrtGraphOptLevel(int level = -1);
    void UseOrtBackend();
    void UseTrtBackend();
    void UseOpenVINOBackend();
    void SetTrtInputShape(const std::string& input_name, const std::vector<int32_t>& min_shape,
                          const std::vector<int32_t>& opt_shape = std::vector<int32_t>(),
                          const std::vector<int32_t>& max_shape = std::vector<int32_t>());

    Backend backend = Backend::UNKNOWN;
    int cpu_thread_num = -1;
    Device device = Device::CPU;
    std::string model_file;
    std::string params_file;
    ModelFormat model_format = ModelFormat::PADDLE;
};

struct Runtime {
    Runtime();
    ~Runtime();
    bool Init(const RuntimeOption& _option);
    bool Infer(std::vector<FDTensor>& input_tensors, std::vector<FDTensor>* output_tensors);
    int NumInputs();
    TensorInfo GetInputInfo(int index);

    RuntimeOption option;

  private:
    struct BaseBackend;
    std::unique_ptr<BaseBackend> backend_;
};

}  // namespace fastdeploy
