// ONNX Runtime on an ONNX graph, on a CPU, through its C API. The cache stays in the library's tensors.

#include <dlfcn.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "allocator.h"
#include "array_engine.h"
#ifdef PADDLE_GLM_ONNXRUNTIME_HEADERS
#include "onnxruntime_c_api.h"
#else
#include "onnxruntime_wheel_api.h"
#endif

namespace paddle_glm {
namespace {

// Of ONNX Runtime 1.17, the first with MatMulNBits on CPUs.
constexpr uint32_t kApiVersion = 17;

const OrtApi& load_api() {
    // Never closed: its threads may outlive the engine.
    void* library = dlopen(PADDLE_GLM_ONNXRUNTIME_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    auto* get_base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
    if (get_base == nullptr) throw std::runtime_error(PADDLE_GLM_ONNXRUNTIME_LIBRARY " is not ONNX Runtime");
    const OrtApi* api = get_base()->GetApi(kApiVersion);
    if (api != nullptr) return *api;
    throw std::runtime_error(std::string("ONNX Runtime ") + get_base()->GetVersionString() +
                             " is too old: expected 1." + std::to_string(kApiVersion) + " or later");
}

const OrtApi& api() {
    static const OrtApi& table = load_api();
    return table;
}

void check(OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = api().GetErrorMessage(status);
    api().ReleaseStatus(status);
    throw std::runtime_error(message);
}

// An object of the C API, released by an entry of its table.
template <class Thing, void (*OrtApi::*Release)(Thing*)>
struct Releaser {
    void operator()(Thing* thing) const { (api().*Release)(thing); }
};
template <class Thing, void (*OrtApi::*Release)(Thing*)>
using Owned = std::unique_ptr<Thing, Releaser<Thing, Release>>;

template <class Owner, class Create, class... Arguments>
Owner made(Create create, Arguments... arguments) {
    typename Owner::pointer thing = nullptr;
    check(create(arguments..., &thing));
    return Owner(thing);
}

using Environment = Owned<OrtEnv, &OrtApi::ReleaseEnv>;
using Options = Owned<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>;
using SessionOwner = Owned<OrtSession, &OrtApi::ReleaseSession>;
using MemoryInfo = Owned<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>;
using TypeInfo = Owned<OrtTypeInfo, &OrtApi::ReleaseTypeInfo>;
using TensorInfo = Owned<OrtTensorTypeAndShapeInfo, &OrtApi::ReleaseTensorTypeAndShapeInfo>;
using Value = Owned<OrtValue, &OrtApi::ReleaseValue>;

// Threads and memory as in paddle_glm/backends/onnx_runtime.py.
Options session_options(const EngineConfig& config) {
    Options options = made<Options>(api().CreateSessionOptions);
    check(api().SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL));  // errors are thrown
    check(api().SetIntraOpNumThreads(options.get(), config.threads));
    if (!config.quantised || config.target != "portable") return options;
    // Constant folding would dequantise the weights when the graph is opened: 4 to 8 times the memory.
    // Without it, version 1.23 aborts in the other optimiser of half precision weights.
    check(api().AddSessionConfigEntry(options.get(), "optimization.disable_specified_optimizers",
                                      "ConstantFolding;FuseFp16InitializerToFp32NodeTransformer"));
    // The arena would keep a buffer for the dequantised copy of every weight.
    check(api().DisableCpuMemArena(options.get()));
    keep_freed_memory();
    return options;
}

class Session {
  public:
    explicit Session(const EngineConfig& config)
        : environment_(made<Environment>(api().CreateEnv, ORT_LOGGING_LEVEL_FATAL, "paddle_glm")),
          session_(made<SessionOwner>(api().CreateSession, environment_.get(), config.graph_file.c_str(),
                                      session_options(config).get())),
          memory_(made<MemoryInfo>(api().CreateCpuMemoryInfo, OrtDeviceAllocator, OrtMemTypeDefault)) {
        size_t count = 0;
        check(api().SessionGetInputCount(session_.get(), &count));
        for (size_t index = 0; index < count; ++index) {
            inputs_.push_back({name(api().SessionGetInputName, index), input_dtype(index), {}});
        }
        check(api().SessionGetOutputCount(session_.get(), &count));
        for (size_t index = 0; index < count; ++index) {
            outputs_.push_back(name(api().SessionGetOutputName, index));
        }
    }

    // The graph's inputs: names and dtypes, no shapes.
    const std::vector<TensorMeta>& inputs() const { return inputs_; }

    // A tensor that borrows the values.
    template <class Number>
    Value borrowed(const std::vector<int64_t>& shape, const Number* values, size_t count) const {
        const auto type = std::is_same_v<Number, int64_t> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                                                          : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        return made<Value>(api().CreateTensorWithDataAsOrtValue, memory_.get(), const_cast<Number*>(values),
                           count * sizeof(Number), shape.data(), shape.size(), type);
    }

    // Runs the graph; returns its outputs in order.
    std::vector<Value> run(const std::vector<const char*>& names, const std::vector<Value>& values) const {
        std::vector<const OrtValue*> given;
        for (const Value& one : values) given.push_back(one.get());
        std::vector<const char*> wanted;
        for (const std::string& one : outputs_) wanted.push_back(one.c_str());
        std::vector<OrtValue*> outputs(wanted.size(), nullptr);
        check(api().Run(session_.get(), nullptr, names.data(), given.data(), given.size(), wanted.data(),
                        wanted.size(), outputs.data()));
        return {outputs.begin(), outputs.end()};
    }

  private:
    template <class Get>
    std::string name(Get get, size_t index) const {
        OrtAllocator* allocator = nullptr;
        check(api().GetAllocatorWithDefaultOptions(&allocator));
        char* text = nullptr;
        check(get(session_.get(), index, allocator, &text));
        const std::string result = text;
        check(api().AllocatorFree(allocator, text));
        return result;
    }

    std::string input_dtype(size_t index) const {
        const TypeInfo info = made<TypeInfo>(api().SessionGetInputTypeInfo, session_.get(), index);
        const OrtTensorTypeAndShapeInfo* tensor = nullptr;
        check(api().CastTypeInfoToTensorInfo(info.get(), &tensor));
        if (tensor == nullptr) return "no tensor";
        ONNXTensorElementDataType type{};
        check(api().GetTensorElementType(tensor, &type));
        if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) return "int64";
        return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? "float32" : "another type";
    }

    Environment environment_;
    SessionOwner session_;
    MemoryInfo memory_;
    std::vector<TensorMeta> inputs_;
    std::vector<std::string> outputs_;
};

// The library's own memory, kept by the result.
HostTensor host_tensor(Value value) {
    const TensorInfo info = made<TensorInfo>(api().GetTensorTypeAndShape, value.get());
    ONNXTensorElementDataType type{};
    check(api().GetTensorElementType(info.get(), &type));
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) throw std::runtime_error("an output is not float32");
    size_t rank = 0;
    check(api().GetDimensionsCount(info.get(), &rank));
    std::vector<int64_t> shape(rank);
    check(api().GetDimensions(info.get(), shape.data(), rank));
    void* data = nullptr;
    check(api().GetTensorMutableData(value.get(), &data));
    const std::shared_ptr<OrtValue> owner = std::move(value);
    return {std::move(shape), {owner, static_cast<const float*>(data)}};
}

class OnnxRuntimeEngine : public ArrayEngine {
  public:
    explicit OnnxRuntimeEngine(const EngineConfig& config) : ArrayEngine(config, true), session_(config) {
        check_inputs(session_.inputs());
    }

  protected:
    std::vector<HostTensor> infer(const std::vector<EngineInput>& inputs,
                                  const std::vector<HostTensor>& past) override {
        std::vector<const char*> names;
        std::vector<Value> values;
        for (const EngineInput& one : inputs) {
            names.push_back(one.name);
            values.push_back(session_.borrowed(*one.shape, one.values->data(), one.values->size()));
        }
        for (size_t index = 0; index < past.size(); ++index) {
            names.push_back(config().caches[index].name.c_str());
            values.push_back(
                session_.borrowed(past[index].shape, past[index].data.get(), past[index].size()));
        }
        std::vector<HostTensor> outputs;
        for (Value& one : session_.run(names, values)) outputs.push_back(host_tensor(std::move(one)));
        return outputs;
    }

  private:
    Session session_;
};

}  // namespace
}  // namespace paddle_glm

extern "C" paddle_glm::Engine* paddle_glm_make_engine(const paddle_glm::EngineConfig& config) {
    return new paddle_glm::OnnxRuntimeEngine(config);
}
