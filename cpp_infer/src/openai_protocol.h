#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include "answer_queue.h"
#include "meta.h"

namespace paddle_glm {

// An error in OpenAI's format, with its HTTP status.
struct ProtocolError : std::runtime_error {
    ProtocolError(int http_status, const std::string& message,
                  const char* error_type = "invalid_request_error", const char* error_code = nullptr,
                  const char* error_param = nullptr);

    std::string body() const;

    int status;
    std::string type;
    Json code, param;  // text or null
};

// A request of /v1/chat/completions.
struct ChatRequest {
    AnswerRequest question;
    bool stream = false;
    bool include_usage = false;
};

// Reads a request's body. model: the served model's name; defaults: parameters that the request may change.
// Throws ProtocolError and InputError, naming the value.
ChatRequest parse_chat_request(const std::string& body, const std::string& model,
                               const GenerationParams& defaults);

// JSON of one answer, whose parts share id, time and model: `ChatCompletionBuilder` in Python.
class CompletionWriter {
  public:
    explicit CompletionWriter(const std::string& model);

    std::string response(const std::string& text, const AnswerEnd& end) const;
    // Server-sent events.
    std::string first_event() const;
    std::string text_event(const std::string& text) const;
    std::string last_events(const AnswerEnd& end, bool include_usage) const;

  private:
    Json common(const char* object) const;
    std::string chunk(Json delta, const char* finish_reason) const;

    std::string model_;
    std::string id_;
    int64_t created_;
};

// The text of an event: data, then an empty line.
std::string server_sent_event(const std::string& data);

// The JSON of /v1/models.
std::string models_body(const std::string& model);

}  // namespace paddle_glm
