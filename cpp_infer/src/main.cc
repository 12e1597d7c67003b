// paddle_glm_infer: inference from a folder written by `paddle-glm export`.

#include <chrono>
#include <iostream>

#include "commands.h"
#ifdef PADDLE_GLM_SERVE
#include "http_server.h"
#endif
#include "options.h"
#include "paddle_glm/session.h"

namespace {

using namespace paddle_glm;

void serve(const Options& options) {
#ifdef PADDLE_GLM_SERVE
    HttpServer server(options);
    Session session(options.model_dir, options.engine);
    server.run(session, options.params(session.defaults()));
#else
    throw InputError(
        "--serve " + options.model_dir +
        ": this program was built without cpp-httplib: install it (Debian and Ubuntu: apt-get install "
        "libcpp-httplib-dev) and build again (bash tools/build_cpp.sh)");
#endif
}

void run(const Options& options) {
    if (options.serve) return serve(options);
    const auto start = std::chrono::steady_clock::now();
    Session session(options.model_dir, options.engine);
    const LoadStats loaded = load_stats_since(start);
    const Timing timing = options.prompt ? answer_prompt(session, *options.prompt, options)
                          : options.chat ? chat(session, options)
                                         : answer_rows(session, options);
    if (options.benchmark) print_benchmark(timing, loaded);
}

}  // namespace

int main(int count, char** arguments) {
    try {
        const Options options = parse_options(count, arguments);
        if (options.help) {
            std::cout << usage();
        } else {
            run(options);
        }
        return 0;
    } catch (const InputError& error) {
        std::cerr << "error: " << error.what() << '\n';
        return 2;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << " (please report it)\n";
        return 1;
    }
}
