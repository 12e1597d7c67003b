// Reading of requests: `ChatRequest` of paddle_glm/serving/protocol/openai_request.py.

#include <algorithm>

#include "openai_protocol.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

constexpr int kMaxDepth = 32;  // JSON values are copied and printed by recursion
constexpr size_t kMaxStopStrings = 16;
constexpr int64_t kMaxInteger = int64_t(1) << 40;  // no sum of two overflows; means "without a limit"

const char* const kFields[] = {"messages",    "model",
                               "stream",      "stream_options",
                               "temperature", "top_p",
                               "top_k",       "repetition_penalty",
                               "max_tokens",  "max_completion_tokens",
                               "seed",        "stop",
                               "tools"};
const char* const kIgnored[] = {
    "parallel_tool_calls", "user", "metadata", "store", "service_tier", "safety_identifier",
    "prompt_cache_key"};

// Unsupported fields of the protocol -> the neutral values that are accepted.
const Json& neutral_values() {
    static const Json values = {{"n", {1}},
                                {"presence_penalty", {0}},
                                {"frequency_penalty", {0}},
                                {"logit_bias", Json::array({Json::object()})},
                                {"logprobs", {false}},
                                {"top_logprobs", {0}},
                                {"tool_choice", {"none", "auto"}},
                                {"response_format", Json::array({{{"type", "text"}}})},
                                {"modalities", Json::array({Json::array({"text"})})}};
    return values;
}

std::string shown(const Json& value) {
    const std::u32string text = to_code_points(value.dump());
    return text.size() <= 80 ? to_utf8(text) : to_utf8(text.substr(0, 77)) + "...";
}

[[noreturn]] void refuse(const std::string& name, const Json& value, const std::string& expected) {
    throw ProtocolError(400, name + " is " + shown(value) + ": expected " + expected, "invalid_request_error",
                        nullptr, name.c_str());
}

Json parse(const std::string& body) {
    const auto check_depth = [](int depth, Json::parse_event_t, Json&) {
        if (depth <= kMaxDepth) return true;
        throw ProtocolError(400,
                            "the body is nested more than " + std::to_string(kMaxDepth) + " levels deep");
    };
    Json value;
    try {
        value = Json::parse(body, check_depth);
    } catch (const Json::exception& error) {
        throw ProtocolError(400, std::string("the body is not valid JSON: ") + error.what());
    }
    if (!value.is_object()) refuse("the body", value, "a JSON object with messages");
    return value;
}

// Null is the same as absent.
const Json* find(const Json& object, const char* name) {
    const auto found = object.find(name);
    return found == object.end() || found->is_null() ? nullptr : &*found;
}

bool find_bool(const Json& object, const char* name) {
    const Json* const value = find(object, name);
    if (value != nullptr && !value->is_boolean()) refuse(name, *value, "true or false");
    return value != nullptr && value->get<bool>();
}

std::optional<double> find_number(const Json& object, const char* name) {
    const Json* const value = find(object, name);
    if (value == nullptr) return {};
    if (!value->is_number()) refuse(name, *value, "a number");
    return value->get<double>();
}

std::optional<int64_t> find_integer(const Json& object, const char* name) {
    const Json* const value = find(object, name);
    if (value == nullptr) return {};
    if (!value->is_number_integer()) refuse(name, *value, "an integer");
    if (value->is_number_unsigned() && value->get<uint64_t>() > kMaxInteger) return kMaxInteger;
    return value->get<int64_t>();
}

void check_fields(const Json& body) {
    const auto is_in = [](const auto& names, const std::string& name) {
        return std::find(std::begin(names), std::end(names), name) != std::end(names);
    };
    for (const auto& [name, value] : body.items()) {
        if (is_in(kFields, name) || is_in(kIgnored, name)) continue;
        const auto neutral = neutral_values().find(name);
        if (neutral == neutral_values().end()) {
            throw ProtocolError(400, shown(name) + " is not a field of the request", "invalid_request_error",
                                nullptr, name.c_str());
        }
        if (value.is_null() || std::find(neutral->begin(), neutral->end(), value) != neutral->end()) continue;
        throw ProtocolError(
            400, name + " is " + shown(value) + ": this server supports only " + (*neutral)[0].dump(),
            "invalid_request_error", nullptr, name.c_str());
    }
    const Json* const tools = find(body, "tools");
    if (tools != nullptr && !tools->empty() && body.value("tool_choice", Json()) != "none") {
        refuse("tools", *tools, "none: this program calls no tools, `paddle-glm serve` does");
    }
}

void check_model(const Json& body, const std::string& model) {
    const Json* const asked = find(body, "model");
    if (asked == nullptr || *asked == model) return;
    if (!asked->is_string()) refuse("model", *asked, "text");
    throw ProtocolError(
        404, "the model " + shown(*asked) + " does not exist here: this server has '" + model + "'",
        "invalid_request_error", "model_not_found", "model");
}

std::string content(const Json& value, const std::string& name) {
    if (value.is_string()) return value;
    if (!value.is_array()) refuse(name, value, "text or a list of text parts");
    std::string text;
    for (const Json& part : value) {
        const bool good = part.is_object() && part.size() == 2 && part.value("type", Json()) == "text" &&
                          part.value("text", Json()).is_string();
        if (!good) refuse(name, part, "a part {\"type\": \"text\", \"text\": ...}");
        text += part["text"].get<std::string>();
    }
    return text;
}

Message message(const Json& value, const std::string& name) {
    if (!value.is_object()) refuse(name, value, "an object with role and content");
    for (const auto& [key, field] : value.items()) {
        if (key == "role" || key == "content") continue;
        const bool optional = key == "name" || key == "tool_call_id";
        if (field.is_null() || (optional && field.is_string())) continue;
        if (key == "tool_calls" && field.is_array() && field.empty()) continue;
        refuse(name + "." + key, field, "only role, content, name and tool_call_id");
    }
    const Json role = value.value("role", Json());
    if (!role.is_string()) refuse(name + ".role", role, "text");
    const Json* const text = find(value, "content");
    if (text == nullptr) {
        throw ProtocolError(400, "a message of the role " + shown(role) + " has no content: expected text");
    }
    const std::string given = role;
    return {given == "developer" ? "system"
            : given == "tool"    ? "observation"
                                 : given,
            content(*text, name + ".content")};
}

Session::Conversation messages(const Json& body) {
    const Json* const given = find(body, "messages");
    if (given == nullptr) throw ProtocolError(400, "messages is missing: expected a list of messages");
    if (!given->is_array() || given->empty()) refuse("messages", *given, "a list of messages");
    Session::Conversation result;
    for (const Json& one : *given) {
        result.push_back(message(one, "messages." + std::to_string(result.size())));
    }
    return result;
}

std::vector<std::string> stop_strings(const Json& body) {
    const Json* const given = find(body, "stop");
    if (given == nullptr) return {};
    const Json list = given->is_array() ? *given : Json::array({*given});
    std::vector<std::string> result;
    for (const Json& one : list) {
        if (one.is_string() && one != "") result.push_back(one);
    }
    if (result.size() != list.size() || result.size() > kMaxStopStrings) {
        refuse("stop", *given, "at most " + std::to_string(kMaxStopStrings) + " texts, none empty");
    }
    return result;
}

std::optional<int64_t> max_tokens(const Json& body) {
    const std::optional<int64_t> most = find_integer(body, "max_tokens");
    const std::optional<int64_t> newer = find_integer(body, "max_completion_tokens");
    if (most && newer && most != newer) {
        throw ProtocolError(400, "max_tokens " + std::to_string(*most) + " and max_completion_tokens " +
                                     std::to_string(*newer) + ": give one of them");
    }
    return newer ? newer : most;
}

// `ChatRequest.to_params` in Python.
GenerationParams params(const Json& body, GenerationParams result) {
    const auto temperature = find_number(body, "temperature");
    const auto top_p = find_number(body, "top_p");
    const auto top_k = find_integer(body, "top_k");
    if (temperature && *temperature < 0) {
        refuse("temperature", body["temperature"], "0 (greedy decoding) or more");
    }
    if (temperature || top_p || top_k) result.do_sample = temperature != 0.0;
    if (temperature && *temperature > 0) result.temperature = *temperature;
    if (top_p) result.top_p = *top_p;
    if (top_k) result.top_k = *top_k == -1 ? 0 : *top_k;  // -1 turns it off in vLLM
    if (const auto penalty = find_number(body, "repetition_penalty")) result.repetition_penalty = *penalty;
    if (const auto most = max_tokens(body)) result.max_new_tokens = *most;
    if (const Json* const seed = find(body, "seed")) {
        if (!seed->is_number_unsigned()) refuse("seed", *seed, "0 or a positive number of at most 64 bits");
        result.seed = seed->get<uint64_t>();
    }
    result.check();
    return result;
}

}  // namespace

ChatRequest parse_chat_request(const std::string& text, const std::string& model,
                               const GenerationParams& defaults) {
    const Json body = parse(text);
    check_fields(body);
    check_model(body, model);
    ChatRequest request;
    request.question = {messages(body), params(body, defaults), stop_strings(body)};
    request.stream = find_bool(body, "stream");
    if (const Json* const options = find(body, "stream_options")) {
        if (!options->is_object()) refuse("stream_options", *options, "an object");
        request.include_usage = find_bool(*options, "include_usage");
    }
    return request;
}

}  // namespace paddle_glm
