#pragma once

#include <memory>

#include "options.h"
#include "paddle_glm/session.h"

namespace paddle_glm {

// `paddle_glm_infer --serve`: OpenAI's protocol over HTTP.
class HttpServer {
  public:
    // Binds the address, so that a port that is taken is reported before a model is loaded. Throws
    // InputError.
    explicit HttpServer(const Options& options);
    ~HttpServer();

    // Serves until SIGINT or SIGTERM; accepted requests are then finished, for up to --shutdown_timeout
    // seconds or until a second signal.
    void run(Session& session, const GenerationParams& defaults);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace paddle_glm
