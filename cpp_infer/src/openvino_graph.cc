#include "openvino_graph.h"

#include <openvino/c/openvino.h>

#include <stdexcept>
#include <utility>

namespace paddle_glm {
namespace {

void check(ov_status_e status) {
    if (status == OK) return;
    const char* message = ov_get_last_err_msg();
    throw std::runtime_error(message != nullptr && *message != 0 ? message : ov_get_error_info(status));
}

// An object of the C API, released by its free function.
template <class Thing, void (*Free)(Thing*)>
using Owned = std::unique_ptr<Thing, std::integral_constant<decltype(Free), Free>>;

using Tensor = Owned<ov_tensor_t, ov_tensor_free>;

struct Shape : ov_shape_t {
    Shape() : ov_shape_t{} {}
    ~Shape() { ov_shape_free(this); }
    Shape(const Shape&) = delete;
    Shape& operator=(const Shape&) = delete;
};

Tensor borrowed(const GraphInput& input) {
    Shape shape;
    check(ov_shape_create(static_cast<int64_t>(input.shape.size()), input.shape.data(), &shape));
    ov_tensor_t* tensor = nullptr;
    check(ov_tensor_create_from_host_ptr(input.is_int64 ? I64 : F32, shape, const_cast<void*>(input.data),
                                         &tensor));
    return Tensor(tensor);
}

// The request's own memory, kept by the result until the step after the next: a step whose input is an output
// of the step before writes that output elsewhere.
HostTensor host_tensor(Tensor tensor) {
    ov_element_type_e type = F32;
    check(ov_tensor_get_element_type(tensor.get(), &type));
    if (type != F32) throw std::runtime_error("an output is not float32");
    Shape shape;
    check(ov_tensor_get_shape(tensor.get(), &shape));
    void* data = nullptr;
    check(ov_tensor_data(tensor.get(), &data));
    const std::shared_ptr<ov_tensor_t> owner = std::move(tensor);
    return {{shape.dims, shape.dims + shape.rank}, {owner, static_cast<const float*>(data)}};
}

std::vector<TensorMeta> inputs_of(const ov_model_t& model) {
    size_t count = 0;
    check(ov_model_inputs_size(&model, &count));
    std::vector<TensorMeta> result;
    for (size_t index = 0; index < count; ++index) {
        ov_output_const_port_t* made = nullptr;
        check(ov_model_const_input_by_index(&model, index, &made));
        const Owned<ov_output_const_port_t, ov_output_const_port_free> port(made);
        char* name = nullptr;
        check(ov_port_get_any_name(made, &name));
        const Owned<const char, ov_free> owner(name);
        ov_element_type_e type = DYNAMIC;
        check(ov_port_get_element_type(made, &type));
        result.push_back({name, type == I64 ? "int64" : type == F32 ? "float32" : "another type", {}});
    }
    return result;
}

}  // namespace

struct OpenVinoGraph::Request {
    Owned<ov_core_t, ov_core_free> core;
    Owned<ov_compiled_model_t, ov_compiled_model_free> model;
    Owned<ov_infer_request_t, ov_infer_request_free> request;
    size_t outputs = 0;
};

OpenVinoGraph::OpenVinoGraph(const std::string& file, int threads,
                             const std::map<std::string, std::string>& settings)
    : request_(std::make_unique<Request>()) {
    ov_core_t* core = nullptr;
    check(ov_core_create(&core));
    request_->core.reset(core);
    ov_model_t* made = nullptr;
    check(ov_core_read_model(core, file.c_str(), nullptr, &made));
    const Owned<ov_model_t, ov_model_free> read(made);
    inputs_ = inputs_of(*made);  // a compiled model's inputs also have names of inner tensors
    std::map<std::string, std::string> all = settings;
    all.insert({
        {"INFERENCE_PRECISION_HINT",
         "f32"},  // else processors with bfloat16 or float16 units compute in those
        {"INFERENCE_NUM_THREADS", std::to_string(threads)},
        {"PERFORMANCE_HINT", "LATENCY"},
        // Kernels are compiled per cache length and 5000 are kept by default, about 0.7 MiB each.
        {"CPU_RUNTIME_CACHE_CAPACITY", "64"},
        // Where products read integers, activations would be rounded to 8 bits by default.
        {"DYNAMIC_QUANTIZATION_GROUP_SIZE", "0"},
    });
    for (const auto& [name, value] : all)
        check(ov_core_set_property(core, "CPU", name.c_str(), value.c_str()));
    ov_compiled_model_t* model = nullptr;
    check(ov_core_compile_model(core, made, "CPU", 0, &model));
    request_->model.reset(model);
    check(ov_compiled_model_outputs_size(model, &request_->outputs));
    ov_infer_request_t* request = nullptr;
    check(ov_compiled_model_create_infer_request(model, &request));
    request_->request.reset(request);
}

OpenVinoGraph::~OpenVinoGraph() = default;

std::vector<HostTensor> OpenVinoGraph::infer(const std::vector<GraphInput>& inputs) {
    ov_infer_request_t* request = request_->request.get();
    for (const GraphInput& input : inputs) {
        check(ov_infer_request_set_tensor(request, input.name.c_str(), borrowed(input).get()));
    }
    check(ov_infer_request_infer(request));
    std::vector<HostTensor> outputs;
    for (size_t index = 0; index < request_->outputs; ++index) {
        ov_tensor_t* tensor = nullptr;
        check(ov_infer_request_get_output_tensor_by_index(request, index, &tensor));
        outputs.push_back(host_tensor(Tensor(tensor)));
    }
    return outputs;
}

}  // namespace paddle_glm
