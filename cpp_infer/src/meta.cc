#include "meta.h"

#include <filesystem>
#include <fstream>

#include "paddle_glm/error.h"

namespace paddle_glm {
namespace {

constexpr int kFormatVersion = 2;
constexpr const char* kFileName = "generation_meta.json";

TensorMeta tensor(const Json& value) {
    return {value.at("name"), value.at("dtype"), value.at("shape").get<std::vector<int64_t>>()};
}

// File suffixes of each graph format: GRAPH_SUFFIXES in Python.
std::vector<std::string> graph_files(const std::string& prefix, const std::string& format,
                                     const std::string& path) {
    if (format == "paddle") return {prefix + ".json", prefix + ".pdiparams"};
    if (format == "onnx") return {prefix + ".onnx"};
    throw InputError(path + " has a graph in the format \"" + format +
                     "\", this program knows paddle and onnx: build it from the version that exported");
}

// TARGETS in Python.
std::string read_target(const Json& values, const std::string& path) {
    const std::string target = values.value("target", "portable");
    if (target == "portable" || target == "onnxruntime" || target == "openvino") return target;
    throw InputError(
        path + " has the target \"" + target +
        "\", this program knows portable, onnxruntime and openvino: build it from the version that exported");
}

PositionRule position_rule(const Json& value, const std::string& path) {
    PositionRule result;
    const std::string rule = value.at("rule");
    if (rule == "count") return result;
    if (rule != "blank") {
        throw InputError(path + " has the position rule \"" + rule +
                         "\", this program knows count and blank: build it from the version that exported");
    }
    result.blank = true;
    value.at("start").get_to(result.start);
    value.at("blanks").get_to(result.blanks);
    value.at("rows").get_to(result.rows);
    if (const Json& id = value.at("counts_on"); !id.is_null()) result.counts_on = id;
    return result;
}

GenerationParams sampling(const Json& value) {
    GenerationParams result;
    value.at("do_sample").get_to(result.do_sample);
    value.at("temperature").get_to(result.temperature);
    value.at("top_k").get_to(result.top_k);
    value.at("top_p").get_to(result.top_p);
    value.at("repetition_penalty").get_to(result.repetition_penalty);
    value.at("num_beams").get_to(result.num_beams);
    value.at("length_penalty").get_to(result.length_penalty);
    value.at("early_stopping").get_to(result.early_stopping);
    value.at("max_length").get_to(result.max_length);
    if (const auto limit = value.find("max_new_tokens"); limit != value.end()) {
        result.max_new_tokens = limit->get<int64_t>();
    }
    return result;
}

Meta from_json(const Json& values, const std::string& path) {
    const Json version = values.is_object() ? values.value("format_version", Json()) : Json();
    if (version != kFormatVersion) {
        throw InputError(path + " has format version " + version.dump() + ", this program reads " +
                         std::to_string(kFormatVersion) + ": export the model again with this version");
    }
    Meta meta;
    values.at("prefix").get_to(meta.model_prefix);
    meta.format = values.value("format", "paddle");
    meta.graph_files = graph_files(meta.model_prefix, meta.format, path);
    meta.target = read_target(values, path);
    values.at("vocab_size").get_to(meta.vocab_size);
    values.at("max_sequence_length").get_to(meta.max_sequence_length);
    const Json& inputs = values.at("inputs");
    meta.operators = values.value("operators", 0);
    const size_t caches = 2 * values.at("num_layers").get<size_t>();
    for (size_t index = 0; index < inputs.size(); ++index) {
        (index + caches < inputs.size() ? meta.token_inputs : meta.caches).push_back(tensor(inputs[index]));
    }
    if (meta.operators > 0) meta.token_inputs.pop_back();  // the length of the past, which engines know
    meta.positions = position_rule(values.at("positions"), path);
    if (const Json& first = values.at("first_cache"); !first.is_null()) {
        meta.prefix_cache = {first.at("file"), first.at("length")};
    }
    meta.chat_template = values.at("template");
    values.at("tokenizer_file").get_to(meta.tokenizer_file);
    meta.tokenizer_spec = read_tokenizer_spec(values.at("spelling"));
    values.at("special_tokens").get_to(meta.special_tokens);
    values.at("stop_token_ids").get_to(meta.stop_token_ids);
    values.at("pad_token_id").get_to(meta.pad_token_id);
    meta.sampling = sampling(values.at("sampling"));
    return meta;
}

Json read_json(const std::filesystem::path& path) {
    std::ifstream file(path);
    if (!file) {
        throw InputError(path.string() + " not found: expected a folder that `paddle-glm export` wrote");
    }
    try {
        return Json::parse(file);
    } catch (const Json::exception& error) {
        throw InputError(path.string() + " cannot be read (" + error.what() + "): export the model again");
    }
}

void check_files(const std::filesystem::path& folder, const Json& files) {
    for (const auto& [name, size] : files.items()) {
        const auto path = folder / name;
        std::error_code error;
        const auto found = std::filesystem::file_size(path, error);
        if (error) throw InputError(path.string() + " is missing: copy or export the folder again");
        if (found != size.get<uintmax_t>()) {
            throw InputError(path.string() + " has " + std::to_string(found) + " bytes of " + size.dump() +
                             ": copy or export the folder again");
        }
    }
}

}  // namespace

TokenizerSpec read_tokenizer_spec(const Json& value) {
    TokenizerSpec result;
    value.at("pieces").get_to(result.pieces);
    value.at("offset").get_to(result.offset);
    value.at("spelled").get_to(result.spelled);
    for (const Json& pair : value.at("texts")) result.texts[pair.at(0).get<int64_t>()] = pair.at(1);
    value.at("below_offset").get_to(result.below_offset);
    return result;
}

Meta read_meta(const std::string& folder) {
    const auto path = std::filesystem::path(folder) / kFileName;
    const Json values = read_json(path);
    try {
        Meta meta = from_json(values, path.string());
        meta.quantised =
            read_json(std::filesystem::path(folder) / "config.json").value("quantization_bit", 0) > 0;
        meta.upcasts_weights =
            meta.quantised || values.value("stored_dtype", "float32") != meta.caches.at(0).dtype;
        check_files(folder, values.at("files"));
        return meta;
    } catch (const Json::exception& error) {
        throw InputError(path.string() + " cannot be read (" + error.what() + "): export the model again");
    }
}

}  // namespace paddle_glm
