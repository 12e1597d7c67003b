#include "openai_protocol.h"

#include <ctime>
#include <random>

namespace paddle_glm {
namespace {

// Invalid UTF-8, which only error messages may hold, is replaced.
std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json text_or_null(const char* text) { return text == nullptr ? Json() : Json(text); }

std::string random_id() {
    std::random_device source;
    std::string text;
    for (int digit = 0; digit < 32; ++digit) text += "0123456789abcdef"[source() % 16];
    return text;
}

Json usage(const AnswerEnd& end) {
    return {{"prompt_tokens", end.prompt_tokens},
            {"completion_tokens", end.completion_tokens},
            {"total_tokens", end.prompt_tokens + end.completion_tokens}};
}

}  // namespace

ProtocolError::ProtocolError(int http_status, const std::string& message, const char* error_type,
                             const char* error_code, const char* error_param)
    : std::runtime_error(message),
      status(http_status),
      type(error_type),
      code(text_or_null(error_code)),
      param(text_or_null(error_param)) {}

std::string ProtocolError::body() const {
    return dump({{"error", {{"message", what()}, {"type", type}, {"param", param}, {"code", code}}}});
}

CompletionWriter::CompletionWriter(const std::string& model)
    : model_(model), id_("chatcmpl-" + random_id()), created_(std::time(nullptr)) {}

std::string CompletionWriter::response(const std::string& text, const AnswerEnd& end) const {
    Json value = common("chat.completion");
    value["choices"] = {{{"index", 0},
                         {"message", {{"role", "assistant"}, {"content", text}}},
                         {"logprobs", nullptr},
                         {"finish_reason", end.finish_reason}}};
    value["usage"] = usage(end);
    return dump(value);
}

std::string CompletionWriter::first_event() const {
    return chunk({{"role", "assistant"}, {"content", ""}}, nullptr);
}

std::string CompletionWriter::text_event(const std::string& text) const {
    return chunk({{"content", text}}, nullptr);
}

std::string CompletionWriter::last_events(const AnswerEnd& end, bool include_usage) const {
    std::string events = chunk(Json::object(), end.finish_reason);
    if (include_usage) {
        Json value = common("chat.completion.chunk");
        value["choices"] = Json::array();
        value["usage"] = usage(end);
        events += server_sent_event(dump(value));
    }
    return events + server_sent_event("[DONE]");
}

Json CompletionWriter::common(const char* object) const {
    return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_}};
}

std::string CompletionWriter::chunk(Json delta, const char* finish_reason) const {
    Json value = common("chat.completion.chunk");
    value["choices"] = {{{"index", 0},
                         {"delta", std::move(delta)},
                         {"logprobs", nullptr},
                         {"finish_reason", text_or_null(finish_reason)}}};
    return server_sent_event(dump(value));
}

std::string server_sent_event(const std::string& data) { return "data: " + data + "\n\n"; }

std::string models_body(const std::string& model) {
    const Json one = {{"id", model}, {"object", "model"}, {"created", 0}, {"owned_by", "paddle_glm"}};
    return dump({{"object", "list"}, {"data", Json::array({one})}});
}

}  // namespace paddle_glm
