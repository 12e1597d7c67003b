#include "commands.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "rows.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// Ctrl-C interrupts an answer; at the prompt it exits the program as usual.
class SigintGuard {
  public:
    SigintGuard() : previous_(std::signal(SIGINT, [](int) { interrupted = 1; })) { interrupted = 0; }
    ~SigintGuard() { std::signal(SIGINT, previous_); }
    SigintGuard(const SigintGuard&) = delete;
    SigintGuard& operator=(const SigintGuard&) = delete;

  private:
    void (*previous_)(int);
};

bool show(const std::string& piece) {
    std::cout << piece << std::flush;
    return interrupted == 0;
}

Session::Conversation initial_messages(const Options& options) {
    if (options.system.empty()) return {};
    return {{"system", options.system}};
}

void add_times(Timing& sum, const Timing& one) {
    sum.prefill_seconds += one.prefill_seconds;
    sum.decode_seconds += one.decode_seconds;
    sum.prompt_tokens += one.prompt_tokens;
    sum.decode_tokens += one.decode_tokens;
    sum.decode_steps += one.decode_steps;
}

double rate(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

// Not getrusage, which includes the process before exec.
double megabytes(const std::string& which) {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        double kilobytes = 0;
        if (word == which && status >> kilobytes) return kilobytes / 1024;
    }
    return 0;
}

std::string stripped(const std::string& text) { return to_utf8(strip(to_code_points(text))); }

}  // namespace

Timing answer_prompt(Session& session, const std::string& prompt, const Options& options) {
    Session::Conversation messages = initial_messages(options);
    messages.push_back({"user", prompt});
    session.stream(messages, options.params(session.defaults()), show);
    std::cout << '\n';
    return session.timing();
}

Timing answer_rows(Session& session, const Options& options) {
    const std::vector<Row> rows = read_rows(options.input_file, options.columns);
    std::ofstream file;
    if (!options.output_file.empty()) {
        file.open(options.output_file);
        if (!file)
            throw InputError(options.output_file + " cannot be written: check the folder and its rights");
    }
    std::ostream& output = options.output_file.empty() ? std::cout : file;
    const GenerationParams params = options.params(session.defaults());
    Timing sum;
    for (size_t begin = 0; begin < rows.size(); begin += options.batch_size) {
        const size_t end = std::min(rows.size(), begin + options.batch_size);
        std::vector<Session::Conversation> batch;
        for (size_t row = begin; row < end; ++row) {
            const Session::Conversation& question = rows[row].question;
            Session::Conversation& messages = batch.emplace_back(initial_messages(options));
            messages.insert(messages.end(), question.begin(), question.end());
        }
        const std::vector<Reply> replies = session.answer(batch, params);
        for (size_t row = begin; row < end; ++row) output << answer_line(rows[row], replies[row - begin]);
        add_times(sum, session.timing());
    }
    output.flush();
    if (!output)
        throw InputError(options.output_file + " could not be written to its end: is the disk full?");
    return sum;
}

Timing chat(Session& session, const Options& options) {
    const GenerationParams params = options.params(session.defaults());
    Session::Conversation messages = initial_messages(options);
    Timing sum;
    std::string line;
    while (std::cout << "\n用户：" << std::flush && std::getline(std::cin, line)) {
        const std::string question = stripped(line);
        if (question == "stop") return sum;
        if (question.empty()) continue;
        if (question == "clear") {
            messages = initial_messages(options);
            std::cout << "对话历史已清空\n";
            continue;
        }
        Session::Conversation asked = messages;
        asked.push_back({"user", question});
        std::cout << "\nChatGLM：" << std::flush;
        try {
            const SigintGuard guard;
            const Reply reply = session.stream(asked, params, show);
            add_times(sum, session.timing());
            std::cout << (interrupted ? " ……\n" : "\n");
            if (interrupted) continue;  // the interrupted round is not kept
            asked.insert(asked.end(), reply.messages.begin(), reply.messages.end());
            messages = std::move(asked);
        } catch (const InputError& error) {  // usually a conversation that has become too long
            std::cout << error.what() << "（输入 clear 清空对话历史）\n";
        }
    }
    std::cout << '\n';
    return sum;
}

LoadStats load_stats_since(std::chrono::steady_clock::time_point start) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    return {seconds.count(), megabytes("VmRSS:")};
}

void print_benchmark(const Timing& timing, const LoadStats& loaded) {
    std::fprintf(stderr,
                 "load %.3f s\nprefill %lld tokens in %.4f s, %.1f tokens/s\n"
                 "decode %lld tokens in %lld steps and %.4f s, %.1f tokens/s, %.3f ms per step\n"
                 "memory once loaded %.1f MB, peak memory %.1f MB\n",
                 loaded.seconds, static_cast<long long>(timing.prompt_tokens), timing.prefill_seconds,
                 rate(static_cast<double>(timing.prompt_tokens), timing.prefill_seconds),
                 static_cast<long long>(timing.decode_tokens), static_cast<long long>(timing.decode_steps),
                 timing.decode_seconds,
                 rate(static_cast<double>(timing.decode_tokens), timing.decode_seconds),
                 1e3 * rate(timing.decode_seconds, static_cast<double>(timing.decode_steps)),
                 loaded.megabytes, megabytes("VmHWM:"));
}

}  // namespace paddle_glm
