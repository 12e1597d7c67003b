#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "paddle_glm/error.h"
#include "paddle_glm/params.h"

namespace paddle_glm {

// A message of a conversation. `metadata` and `tools` (JSON) are used by ChatGLM3 only.
struct Message {
    std::string role;
    std::string content;
    std::string metadata = {};
    std::string tools = {};
};

// An answer: its messages (several if the model calls a tool after some text) and how it ended.
struct Reply {
    std::vector<Message> messages;
    bool complete = false;     // ended by an end token, not by length or by the caller
    std::vector<int64_t> ids;  // the answer's tokens, without the end token
    int64_t prompt_tokens = 0;

    // The visible text.
    std::string text() const;
};

// Time of the last call.
struct Timing {
    double prefill_seconds = 0;
    double decode_seconds = 0;
    int64_t prompt_tokens = 0;  // without padding, all rows
    int64_t decode_tokens = 0;  // all rows, without the first token of each, which prefill computes
    int64_t decode_steps = 0;
};

struct EngineOptions {
    std::string
        engine;  // paddle, onnxruntime, openvino or fastdeploy; empty: the first that reads the format
    std::string backend;  // FastDeploy's backend: onnx_runtime (default), openvino, tensorrt
    int threads = 0;      // 0: OMP_NUM_THREADS, else all available
    std::string kernels;  // libpaddle_glm_kernels.so; empty: PADDLE_GLM_KERNELS_LIBRARY, else in engine_dir
    std::string engine_dir;  // folder of libpaddle_glm_engine_NAME.so; empty: that of this library
};

// Generates answers from a folder written by `paddle-glm export`. Not thread-safe.
class Session {
  public:
    using Conversation = std::vector<Message>;
    // Receives the next piece of the answer after every token (complete UTF-8 characters, empty while the
    // next one is incomplete); returns false to stop.
    using Callback = std::function<bool(const std::string& piece)>;

    // Throws InputError for an invalid folder, file or engine.
    explicit Session(const std::string& folder, const EngineOptions& options = {});
    ~Session();
    Session(Session&&) noexcept;
    Session& operator=(Session&&) noexcept;

    // The folder's sampling defaults.
    GenerationParams defaults() const;

    // Throws the InputError that `stream` would throw before its first token. May be called in other threads,
    // also while this session answers.
    void check(const Conversation& messages, const GenerationParams& params) const;

    // Streams the answer to a conversation that ends with a user message. Throws InputError for a
    // conversation that does not fit the template or leaves no room for an answer.
    Reply stream(const Conversation& messages, const GenerationParams& params, const Callback& callback);

    // Answers several conversations in one batch.
    std::vector<Reply> answer(const std::vector<Conversation>& batch, const GenerationParams& params);

    const Timing& timing() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace paddle_glm
