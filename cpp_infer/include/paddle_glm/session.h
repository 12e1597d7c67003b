#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "paddle_glm/error.h"
#include "paddle_glm/params.h"

namespace paddle_glm {

// One message of a conversation. `metadata` and `tools` (a JSON text) are for models with roles (ChatGLM3).
struct Message {
    std::string role;
    std::string content;
    std::string metadata = {};
    std::string tools = {};
};

// An answer: its messages (several where the model calls a tool after a remark) and how it ended.
struct Reply {
    std::vector<Message> messages;
    bool complete = false;     // an end token was met; otherwise the length was reached or it was stopped
    std::vector<int64_t> ids;  // the answer's tokens, without the end token
    int64_t prompt_tokens = 0;

    // What a reader sees.
    std::string text() const;
};

// How long the last call took.
struct Timing {
    double prefill_seconds = 0;
    double decode_seconds = 0;
    int64_t prompt_tokens = 0;  // real ones, of all rows
    int64_t decode_tokens = 0;  // of all rows, without the first of each, which prefill gives
    int64_t decode_steps = 0;
};

struct EngineOptions {
    std::string engine;   // paddle, openvino or fastdeploy; empty: the first that reads the folder's format
    std::string backend;  // what computes below fastdeploy: onnx_runtime (when empty), openvino, tensorrt
    int threads = 0;      // 0: OMP_NUM_THREADS, or all that this process may use
    std::string engine_dir;  // where libpaddle_glm_engine_NAME.so is; empty: beside this library
};

// Answers conversations from a folder that `paddle-glm export` wrote. One call at a time.
class Session {
  public:
    using Conversation = std::vector<Message>;
    // Takes the next piece of the answer, whole UTF-8 characters; returns false to end the answer.
    using Callback = std::function<bool(const std::string& piece)>;

    // Throws InputError for a folder, file or engine that cannot be used.
    explicit Session(const std::string& folder, const EngineOptions& options = {});
    ~Session();
    Session(Session&&) noexcept;
    Session& operator=(Session&&) noexcept;

    // The folder's own sampling defaults.
    GenerationParams defaults() const;

    // Streams the answer to a conversation that ends with the user's message. Throws InputError for a
    // conversation that the model's template cannot write, or that leaves no room for an answer.
    Reply stream(const Conversation& messages, const GenerationParams& params, const Callback& callback);

    // The answers to several conversations, computed together.
    std::vector<Reply> answer(const std::vector<Conversation>& batch, const GenerationParams& params);

    const Timing& timing() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace paddle_glm
