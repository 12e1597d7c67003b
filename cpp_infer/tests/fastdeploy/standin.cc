// A stand-in for FastDeploy 1.x's library, for tests: it writes what it is asked to standard output, as
// FastDeploy writes its log there, ends the process or returns false where FastDeploy does (its FDASSERT and
// FDERROR), and computes with OpenVINO, whichever of its backends was chosen.

#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <numeric>
#include <stdexcept>

#include "fastdeploy/runtime.h"
#include "openvino_graph.h"

namespace fastdeploy {
namespace {

void info(const std::string& text) { std::cout << "[INFO] standin::\t" << text << std::endl; }

bool error(const std::string& text) {
    std::cout << "[ERROR] standin::\t" << text << std::endl;
    return false;
}

void fd_assert(bool good, const std::string& text) {
    if (good) return;
    error(text);
    std::abort();
}

std::string text(const std::vector<int64_t>& shape) {
    std::string result;
    for (const int64_t size : shape) result += (result.empty() ? "" : " ") + std::to_string(size);
    return "[" + result + "]";
}

int size_of(FDDataType type) {
    if (type == INT64 || type == FP64) return 8;
    return type == FP32 || type == INT32 ? 4 : 2;
}

}  // namespace

bool IsBackendAvailable(const Backend& backend) { return backend == ORT || backend == OPENVINO; }

FDTensor::FDTensor(const std::string& tensor_name) : name(tensor_name) {}

FDTensor::FDTensor(const FDTensor& other)
    : shape(other.shape), name(other.name), dtype(other.dtype), external_data_ptr(other.external_data_ptr) {
    if (other.buffer_ == nullptr) return;
    buffer_ = std::malloc(Nbytes());
    std::memcpy(buffer_, other.buffer_, Nbytes());
}

FDTensor::FDTensor(FDTensor&& other) noexcept { *this = std::move(other); }

FDTensor& FDTensor::operator=(const FDTensor& other) { return *this = FDTensor(other); }

FDTensor& FDTensor::operator=(FDTensor&& other) noexcept {
    std::swap(buffer_, other.buffer_);
    std::swap(shape, other.shape);
    std::swap(name, other.name);
    std::swap(dtype, other.dtype);
    std::swap(external_data_ptr, other.external_data_ptr);
    return *this;
}

FDTensor::~FDTensor() { std::free(buffer_); }

void* FDTensor::Data() { return external_data_ptr != nullptr ? external_data_ptr : buffer_; }

void FDTensor::SetExternalData(const std::vector<int64_t>& new_shape, const FDDataType& data_type,
                               void* data_buffer, const Device& new_device, int) {
    shape = new_shape;
    dtype = data_type;
    external_data_ptr = data_buffer;
    device = new_device;
}

void FDTensor::Resize(const std::vector<int64_t>& new_shape, const FDDataType& data_type,
                      const std::string& tensor_name, const Device& new_device) {
    shape = new_shape;
    dtype = data_type;
    name = tensor_name;
    device = new_device;
    external_data_ptr = nullptr;
    buffer_ = std::realloc(buffer_, Nbytes());
}

int FDTensor::Nbytes() const {
    return std::accumulate(shape.begin(), shape.end(), size_of(dtype), std::multiplies<>());
}

void RuntimeOption::SetModelPath(const std::string& model_path, const std::string& params_path,
                                 const ModelFormat& format) {
    model_file = model_path;
    params_file = params_path;
    model_format = format;
}

void RuntimeOption::UseCpu() { device = CPU; }
void RuntimeOption::UseGpu(int) { device = GPU; }
void RuntimeOption::SetCpuThreadNum(int thread_num) { cpu_thread_num = thread_num; }
void RuntimeOption::SetOrtGraphOptLevel(int level) { info("optimisation level " + std::to_string(level)); }
void RuntimeOption::UseOrtBackend() { backend = ORT; }
void RuntimeOption::UseTrtBackend() { backend = TRT; }
void RuntimeOption::UseOpenVINOBackend() { backend = OPENVINO; }

void RuntimeOption::SetTrtInputShape(const std::string& input_name, const std::vector<int32_t>& min_shape,
                                     const std::vector<int32_t>& opt_shape,
                                     const std::vector<int32_t>& max_shape) {
    const auto wide = [](const std::vector<int32_t>& shape) {
        return text(std::vector<int64_t>(shape.begin(), shape.end()));
    };
    info("shape of " + input_name + " " + wide(min_shape) + " " + wide(opt_shape) + " " + wide(max_shape));
}

struct Runtime::BaseBackend {
    paddle_glm::OpenVinoGraph graph;
    std::vector<TensorInfo> inputs;
};

Runtime::Runtime() = default;
Runtime::~Runtime() = default;

bool Runtime::Init(const RuntimeOption& _option) {
    option = _option;
    fd_assert(IsBackendAvailable(option.backend), "the backend is not compiled in");
    fd_assert(option.device == CPU, "this stand-in computes on Device::CPU");
    fd_assert(option.model_format == ONNX, "this stand-in reads ModelFormat::ONNX");
    try {
        backend_.reset(new BaseBackend{{option.model_file, option.cpu_thread_num}, {}});
    } catch (const std::exception& problem) {
        return error(problem.what());
    }
    for (const paddle_glm::TensorMeta& one : backend_->graph.inputs()) {
        backend_->inputs.push_back({one.name, {}, one.dtype == "int64" ? INT64 : FP32});
    }
    info(std::string("Runtime initialized with Backend::") + (option.backend == ORT ? "ORT" : "OPENVINO") +
         " in Device::CPU, threads " + std::to_string(option.cpu_thread_num) + ".");
    return true;
}

bool Runtime::Infer(std::vector<FDTensor>& input_tensors, std::vector<FDTensor>* output_tensors) {
    if (input_tensors.size() != backend_->inputs.size()) {
        return error("Size of the inputs(" + std::to_string(input_tensors.size()) +
                     ") should keep same with the inputs of this model(" +
                     std::to_string(backend_->inputs.size()) + ").");
    }
    std::vector<paddle_glm::GraphInput> inputs;
    std::string line;
    for (FDTensor& one : input_tensors) {
        fd_assert(one.dtype == INT64 || one.dtype == FP32, "Unexpected data type of " + one.name);
        // ONNX Runtime and OpenVINO take it, TensorRT does not: its profile begins at 1.
        fd_assert(one.Nbytes() > 0, "a tensor without bytes: " + one.name);
        inputs.push_back({one.name, one.dtype == INT64, one.shape, one.Data()});
        line += " " + one.name + text(one.shape);
    }
    info("Infer" + line);
    try {
        std::vector<paddle_glm::HostTensor> outputs = backend_->graph.infer(inputs);
        output_tensors->resize(outputs.size());
        for (size_t index = 0; index < outputs.size(); ++index) {
            FDTensor& one = (*output_tensors)[index];
            one.Resize(outputs[index].shape, FP32, "output_" + std::to_string(index));
            std::memcpy(one.Data(), outputs[index].data.get(), one.Nbytes());
        }
    } catch (const std::exception& problem) {
        return error(std::string("Failed to Infer: ") + problem.what());
    }
    return true;
}

int Runtime::NumInputs() { return static_cast<int>(backend_->inputs.size()); }
TensorInfo Runtime::GetInputInfo(int index) { return backend_->inputs.at(index); }

}  // namespace fastdeploy
