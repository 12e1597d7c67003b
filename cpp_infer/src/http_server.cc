#include "http_server.h"

#include <httplib.h>
#include <strings.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <thread>

#include "answer_queue.h"
#include "connection.h"
#include "openai_protocol.h"
#include "stop_signal.h"

namespace paddle_glm {
namespace {

constexpr const char* kJson = "application/json; charset=utf-8";
constexpr const char* kChatPath = "/v1/chat/completions";
constexpr auto kPollTime =
    std::chrono::milliseconds(100);   // between looks at whether a client is still there
constexpr size_t kSpareThreads = 16;  // for refusals and /health while the queue is full
constexpr size_t kDrainedBytes = size_t(16)
                                 << 20;  // read of a refused body, so that its client gets to the answer

ProtocolError to_protocol_error(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const ProtocolError& known) {
        return known;
    } catch (const InputError& known) {
        return {400, known.what()};
    } catch (const QueueFullError& known) {
        return {429, known.what(), "requests", "rate_limit_exceeded"};
    } catch (const OverloadedError& known) {
        return {503, known.what(), "overloaded_error", "overloaded"};
    } catch (...) {
        return {500, "generation failed: see the server's log", "server_error"};
    }
}

ProtocolError unauthorized() {
    return {401, "the API key is missing or wrong", "authentication_error", "invalid_api_key"};
}

void refuse(httplib::Response& response, const ProtocolError& error) {
    response.status = error.status;
    if (error.status == 401) response.set_header("WWW-Authenticate", "Bearer");
    if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
    response.set_content(error.body(), kJson);
}

// In a time that does not depend on where texts differ.
bool is_same(const std::string& given, const std::string& key) {
    unsigned char difference = given.size() != key.size();
    for (size_t place = 0; place < given.size(); ++place)
        difference |= given[place] ^ key[place % key.size()];
    return difference == 0;
}

bool is_loopback(const std::string& host) {
    return host.rfind("127.", 0) == 0 || host == "::1" || host == "localhost";
}

// The answer of one request, generated no longer than somebody waits for it.
class Waiter {
  public:
    Waiter(std::shared_ptr<Answer> answer, const httplib::Request& request)
        : answer_(std::move(answer)), connection_(request.remote_addr, request.remote_port) {}

    // The next text; nothing once the client has left.
    std::optional<std::string> next() {
        while (connection_.is_open()) {
            std::string text = answer_->wait(kPollTime);
            if (!text.empty() || answer_->end()) return text;
        }
        return {};
    }
    const std::optional<AnswerEnd>& end() const { return answer_->end(); }
    void cancel() { answer_->cancel(); }

  private:
    std::shared_ptr<Answer> answer_;
    Connection connection_;
};

// Sends an answer as server-sent events; false if the client has left. An error after the first byte is sent
// as an event, without [DONE].
bool send_events(Waiter& waiter, const CompletionWriter& writer, bool include_usage,
                 httplib::DataSink& sink) {
    const auto send = [&](const std::string& events) { return sink.write(events.data(), events.size()); };
    try {
        if (!send(writer.first_event())) return false;
        while (!waiter.end()) {
            const std::optional<std::string> text = waiter.next();
            if (!text || (!text->empty() && !send(writer.text_event(*text)))) return false;
        }
        if (!send(writer.last_events(*waiter.end(), include_usage))) return false;
    } catch (const std::exception&) {
        if (!send(server_sent_event(to_protocol_error(std::current_exception()).body()))) return false;
    }
    sink.done();
    return true;
}

}  // namespace

struct HttpServer::State {
    explicit State(const Options& options);

    void add_routes();
    bool is_authorized(const httplib::Request& request) const;
    httplib::Server::HandlerResponse route(const httplib::Request& request,
                                           httplib::Response& response) const;
    std::string read_body(const httplib::Request& request, const httplib::ContentReader& reader) const;
    void complete(const httplib::Request& request, httplib::Response& response,
                  const httplib::ContentReader& reader);
    void stop_on(const StopSignal& signal);

    ServeOptions options;
    std::string url;
    AnswerQueue queue;
    httplib::Server http;
    const Session* session = nullptr;
    GenerationParams defaults;
    std::atomic<bool> stopping{false};
};

HttpServer::State::State(const Options& all) : options(all.server), queue(all.server.max_waiting) {
    const char* const key = std::getenv("PADDLE_GLM_API_KEY");
    if (options.api_key.empty() && key != nullptr) options.api_key = key;
    if (options.served_model_name.empty()) {
        std::error_code error;
        const auto folder = std::filesystem::weakly_canonical(all.model_dir, error);
        options.served_model_name = folder.filename().string();
    }
    // httplib's default would let two servers share a port.
    http.set_socket_options([](int socket) {
        const int yes = 1;
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    http.set_tcp_nodelay(true);
    errno = 0;
    const int port = options.port == 0                               ? http.bind_to_any_port(options.host)
                     : http.bind_to_port(options.host, options.port) ? options.port
                                                                     : -1;
    if (port < 0) {
        throw InputError("cannot listen on " + options.host + " port " + std::to_string(options.port) + ": " +
                         (errno ? std::strerror(errno) : "the host is unknown"));
    }
    const bool ipv6 = options.host.find(':') != std::string::npos;
    url = "http://" + (ipv6 ? "[" + options.host + "]" : options.host) + ":" + std::to_string(port);
}

void HttpServer::State::add_routes() {
    // A connection for each request: what is left unread of a refused one is never taken for the next.
    http.set_keep_alive_max_count(1);
    http.new_task_queue = [this] { return new httplib::ThreadPool(options.max_waiting + 1 + kSpareThreads); };
    http.set_pre_routing_handler(
        [this](const auto& request, auto& response) { return route(request, response); });
    http.set_exception_handler([](const auto&, auto& response, std::exception_ptr error) {
        refuse(response, to_protocol_error(error));
    });
    http.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
        const_cast<httplib::Request&>(request).ranges.clear();
        if (!response.body.empty()) return;
        refuse(response, {response.status, "the request is not valid HTTP for this server"});
    });
    http.Get("/health", [this](const auto&, auto& response) {
        const Json body = {{"status", "ok"}, {"running", queue.running()}, {"waiting", queue.waiting()}};
        response.set_content(body.dump(), kJson);
    });
    http.Get("/v1/models", [this](const auto&, auto& response) {
        response.set_content(models_body(options.served_model_name), kJson);
    });
    http.Post(kChatPath, [this](const auto& request, auto& response, const auto& reader) {
        complete(request, response, reader);
    });
}

bool HttpServer::State::is_authorized(const httplib::Request& request) const {
    if (options.api_key.empty()) return true;
    const std::string given = request.get_header_value("Authorization");
    return strncasecmp(given.c_str(), "bearer ", 7) == 0 && is_same(given.substr(7), options.api_key);
}

// Refuses what has no handler before its body is read.
httplib::Server::HandlerResponse HttpServer::State::route(const httplib::Request& request,
                                                          httplib::Response& response) const {
    // A range of an answer means nothing, and httplib would also cut error messages.
    const_cast<httplib::Request&>(request).ranges.clear();
    const bool chat = request.path == kChatPath;
    const bool known = chat || request.path == "/health" || request.path == "/v1/models";
    const bool allowed =
        chat ? request.method == "POST" : request.method == "GET" || request.method == "HEAD";
    if (known && allowed && (chat || request.path == "/health" || is_authorized(request))) {
        return httplib::Server::HandlerResponse::Unhandled;
    }
    const std::string place = request.method + " " + request.path + ": ";
    refuse(response, !is_authorized(request) ? unauthorized()
                     : known                 ? ProtocolError(405, place + "Method Not Allowed")
                                             : ProtocolError(404, place + "Not Found"));
    return httplib::Server::HandlerResponse::Handled;
}

std::string HttpServer::State::read_body(const httplib::Request& request,
                                         const httplib::ContentReader& reader) const {
    const std::string type = request.get_header_value("Content-Type");
    const bool json = strncasecmp(type.c_str(), "application/json", 16) == 0;
    const bool wanted = json && is_authorized(request);
    std::string body;
    size_t size = 0;
    bool whole = true;
    const bool has_body = request.has_header("Content-Length") || request.has_header("Transfer-Encoding");
    if (has_body && !request.is_multipart_form_data()) {  // httplib would parse the latter
        whole = reader([&](const char* data, size_t count) {
            size += count;
            if (wanted && size <= options.max_request_bytes) body.append(data, count);
            return size <= options.max_request_bytes + kDrainedBytes;
        });
    }
    if (!is_authorized(request)) throw unauthorized();
    if (!json) throw ProtocolError(415, "the Content-Type is not application/json");
    if (size > options.max_request_bytes) {
        const std::string text =
            "the body is larger than " + std::to_string(options.max_request_bytes) + " bytes";
        throw ProtocolError(413, text, "invalid_request_error", "too_large");
    }
    if (!whole) throw ProtocolError(400, "the body ended before its end");
    return body;
}

void HttpServer::State::complete(const httplib::Request& request, httplib::Response& response,
                                 const httplib::ContentReader& reader) {
    ChatRequest chat = parse_chat_request(read_body(request, reader), options.served_model_name, defaults);
    session->check(chat.question.messages, chat.question.params);
    if (stopping) throw OverloadedError("the server is shutting down");
    const auto waiter = std::make_shared<Waiter>(queue.submit(std::move(chat.question)), request);
    const CompletionWriter writer(options.served_model_name);
    if (chat.stream) {
        response.set_header("Cache-Control", "no-cache");
        // The whole stream in one call: httplib makes no second one while it shuts down.
        response.set_chunked_content_provider(
            "text/event-stream",
            [=](size_t, httplib::DataSink& sink) {
                return send_events(*waiter, writer, chat.include_usage, sink);
            },
            [=](bool) { waiter->cancel(); });
        return;
    }
    std::string text;
    while (!waiter->end()) {
        const std::optional<std::string> piece = waiter->next();
        if (!piece) {
            waiter->cancel();
            response.status = 499;  // nginx's status; nobody receives it
            return;
        }
        text += *piece;
    }
    response.set_content(writer.response(text, *waiter->end()), kJson);
}

// The first signal stops listening; the second one, or the time, ends what still runs.
void HttpServer::State::stop_on(const StopSignal& signal) {
    if (!signal.wait(-1)) return;
    stopping = true;
    http.stop();
    signal.wait(options.shutdown_timeout);
    queue.close();
}

HttpServer::HttpServer(const Options& options) : state_(std::make_unique<State>(options)) {}
HttpServer::~HttpServer() = default;

void HttpServer::run(Session& session, const GenerationParams& defaults) {
    state_->session = &session;
    state_->defaults = defaults;
    state_->add_routes();
    std::thread listener([&] {
        state_->http.listen_after_bind();  // returns when all accepted requests are answered
        state_->queue.close();
    });
    while (!state_->http.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const StopSignal signal;
    std::thread watcher([&] { state_->stop_on(signal); });
    const ServeOptions& options = state_->options;
    if (options.api_key.empty() && !is_loopback(options.host)) {
        std::cerr << "warning: anyone who can reach " << options.host
                  << " can use this model: set --api_key\n";
    }
    std::cout << options.served_model_name << ": " << state_->url << "/v1 (Ctrl-C to stop)" << std::endl;
    state_->queue.run(session);
    listener.join();
    signal.end();
    watcher.join();
}

}  // namespace paddle_glm
