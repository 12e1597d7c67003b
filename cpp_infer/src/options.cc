#include "options.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <sstream>
#include <type_traits>
#include <vector>

namespace paddle_glm {
namespace {

constexpr size_t kMaxWaiting = 512;

struct Flag {
    const char* name;
    const char* value;  // placeholder in the help text; null for a switch
    const char* help;
    std::function<void(Options&, const std::string&)> set;
};

template <class Number>
Number number(const char* flag, const std::string& text) {
    std::istringstream stream(text);
    Number value{};
    const bool negative = !text.empty() && text[0] == '-';  // would wrap around in an unsigned number
    if (!(stream >> value) || !stream.eof() || (negative && std::is_unsigned_v<Number>)) {
        throw InputError(std::string(flag) + " " + text + ": expected a number");
    }
    return value;
}

template <class Number>
auto into(std::optional<Number> Options::* field, const char* flag) {
    return [=](Options& options, const std::string& text) { options.*field = number<Number>(flag, text); };
}

auto into(std::optional<bool> Options::* field, const char* flag) {
    return [=](Options& options, const std::string& text) {
        if (text == "true" || text == "True" || text == "1") {
            options.*field = true;
        } else if (text == "false" || text == "False" || text == "0") {
            options.*field = false;
        } else {
            throw InputError(std::string(flag) + " " + text + ": expected true or false");
        }
    };
}

template <class Number>
auto positive(Number ServeOptions::* field, const char* flag) {
    return [=](Options& options, const std::string& text) {
        options.server.*field = number<Number>(flag, text);
        if (options.server.*field < 1)
            throw InputError(std::string(flag) + " " + text + ": expected at least 1");
    };
}

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty())
        throw InputError("--api_key_file " + path + ": expected a file whose first line is a key");
    return line;
}

const std::vector<Flag>& flags() {
    static const std::vector<Flag> table{
        {"--model_dir", "DIR", "folder that `paddle-glm export` wrote (required)",
         [](Options& options, const std::string& text) { options.model_dir = text; }},
        {"--prompt", "TEXT", "answer this question",
         [](Options& options, const std::string& text) { options.prompt = text; }},
        {"--chat", nullptr, "talk in the terminal; `clear` forgets, `stop` ends",
         [](Options& options, const std::string&) { options.chat = true; }},
        {"--serve", nullptr, "answer requests over HTTP: OpenAI's protocol",
         [](Options& options, const std::string&) { options.serve = true; }},
        {"--host", "ADDRESS", "address to listen on; 0.0.0.0 for all (default: 127.0.0.1)",
         [](Options& options, const std::string& text) { options.server.host = text; }},
        {"--port", "N", "port to listen on; 0 for any free one (default: 8000)",
         [](Options& options, const std::string& text) {
             options.server.port = number<int>("--port", text);
         }},
        {"--api_key", "KEY", "key that clients must send; PADDLE_GLM_API_KEY keeps it out of process lists",
         [](Options& options, const std::string& text) { options.server.api_key = text; }},
        {"--api_key_file", "FILE", "file whose first line is that key",
         [](Options& options, const std::string& text) { options.server.api_key = first_line(text); }},
        {"--served_model_name", "NAME", "model name for clients (default: the folder's)",
         [](Options& options, const std::string& text) { options.server.served_model_name = text; }},
        {"--max_waiting", "N", "maximum requests in the queue; more are refused (429) (default: 64)",
         positive(&ServeOptions::max_waiting, "--max_waiting")},
        {"--max_request_bytes", "N", "maximum bytes of a request body (default: 1048576)",
         positive(&ServeOptions::max_request_bytes, "--max_request_bytes")},
        {"--shutdown_timeout", "N", "seconds to finish accepted requests at shutdown (default: 30)",
         positive(&ServeOptions::shutdown_timeout, "--shutdown_timeout")},
        {"--input_file", "FILE", "answer the rows of a JSON array or JSON lines file",
         [](Options& options, const std::string& text) { options.input_file = text; }},
        {"--output_file", "FILE", "gets a line {src, tgt, output, ids} per row (default: standard output)",
         [](Options& options, const std::string& text) { options.output_file = text; }},
        {"--prompt_column", "NAME", "key of a row's question; common names are recognised",
         [](Options& options, const std::string& text) { options.columns.prompt = text; }},
        {"--response_column", "NAME", "key of its answer",
         [](Options& options, const std::string& text) { options.columns.response = text; }},
        {"--history_column", "NAME", "key of its earlier rounds, [question, answer] pairs",
         [](Options& options, const std::string& text) { options.columns.history = text; }},
        {"--system", "TEXT", "a message in front of the conversation that sets its tone",
         [](Options& options, const std::string& text) { options.system = text; }},
        {"--batch_size", "N", "rows answered together (default: 1)",
         [](Options& options, const std::string& text) {
             options.batch_size = number<size_t>("--batch_size", text);
         }},
        {"--max_length", "N", "most tokens of prompt and answer together",
         into(&Options::max_length, "--max_length")},
        {"--max_new_tokens", "N", "most tokens of the answer",
         into(&Options::max_new_tokens, "--max_new_tokens")},
        {"--do_sample", "BOOL",
         "draw tokens (default: with the flags below, and in a chat if the model says so)",
         into(&Options::do_sample, "--do_sample")},
        {"--temperature", "X", "divides the logits", into(&Options::temperature, "--temperature")},
        {"--top_k", "N", "draw from this many most likely tokens; 0: from all",
         into(&Options::top_k, "--top_k")},
        {"--top_p", "X", "draw from the fewest tokens that have this probability together",
         into(&Options::top_p, "--top_p")},
        {"--repetition_penalty", "X", "above 1 makes tokens less likely that were there before",
         into(&Options::repetition_penalty, "--repetition_penalty")},
        {"--num_beams", "N", "number of beams; above 1 is beam search, which does not sample",
         into(&Options::num_beams, "--num_beams")},
        {"--length_penalty", "X", "exponent of the length that divides a beam's score",
         into(&Options::length_penalty, "--length_penalty")},
        {"--early_stopping", "BOOL", "end beam search as soon as so many answers are complete",
         into(&Options::early_stopping, "--early_stopping")},
        {"--seed", "N", "the same seed gives the same answer", into(&Options::seed, "--seed")},
        {"--num_threads", "N", "CPU threads (default: OMP_NUM_THREADS, or all)",
         [](Options& options, const std::string& text) {
             options.engine.threads = number<int>("--num_threads", text);
         }},
        {"--engine", "NAME",
         "what computes: paddle, onnxruntime, openvino or fastdeploy (default: the first that reads the "
         "folder's format)",
         [](Options& options, const std::string& text) { options.engine.engine = text; }},
        {"--backend", "NAME",
         "what computes below --engine fastdeploy: onnx_runtime (default), openvino or tensorrt",
         [](Options& options, const std::string& text) { options.engine.backend = text; }},
        {"--kernels", "FILE",
         "library of the native CPU kernels (default: PADDLE_GLM_KERNELS_LIBRARY, else the one beside the "
         "engines)",
         [](Options& options, const std::string& text) { options.engine.kernels = text; }},
        {"--benchmark", nullptr, "print times, tokens per second and memory to standard error",
         [](Options& options, const std::string&) { options.benchmark = true; }},
        {"--help", nullptr, "print this", [](Options& options, const std::string&) { options.help = true; }},
    };
    return table;
}

const Flag& find_flag(const std::string& name) {
    for (const Flag& flag : flags()) {
        if (name == flag.name) return flag;
    }
    throw InputError("unknown argument " + name + ": --help lists the flags");
}

void check(const Options& options) {
    if (options.model_dir.empty())
        throw InputError("--model_dir is missing: a folder that `paddle-glm export` wrote");
    const int ways = options.prompt.has_value() + options.chat + options.serve + !options.input_file.empty();
    if (ways != 1) throw InputError("give one of --prompt, --chat, --serve and --input_file");
    if (options.serve && (options.benchmark || !options.system.empty()))
        throw InputError("--serve takes no --system (requests have system messages) and no --benchmark");
    if (options.server.max_waiting > kMaxWaiting)
        throw InputError("--max_waiting " + std::to_string(options.server.max_waiting) +
                         ": expected at most " + std::to_string(kMaxWaiting) +
                         ", because each request waits in a thread");
    if (options.server.port < 0 || options.server.port > 65535)
        throw InputError("--port " + std::to_string(options.server.port) + ": expected 0 to 65535");
    if (!options.output_file.empty() && options.input_file.empty()) {
        throw InputError("--output_file needs --input_file");
    }
    const Columns& columns = options.columns;
    if (columns.prompt.empty() && !(columns.response.empty() && columns.history.empty()))
        throw InputError("--response_column and --history_column need --prompt_column");
    if (!columns.prompt.empty() && options.input_file.empty())
        throw InputError("--prompt_column names a key of rows: give --input_file too");
    if (options.batch_size < 1) throw InputError("--batch_size 0: expected at least 1");
    if (options.batch_size > 1 && options.input_file.empty())
        throw InputError("--batch_size needs --input_file");
    if (options.engine.threads < 0) throw InputError("--num_threads: expected 0 (all) or a positive number");
}

}  // namespace

Options parse_options(int count, const char* const* arguments) {
    Options options;
    for (int place = 1; place < count; ++place) {
        std::string name = arguments[place];
        const size_t sign = name.find('=');
        std::optional<std::string> value;
        if (sign != name.npos) value = name.substr(sign + 1);
        const Flag& flag = find_flag(name.substr(0, sign));
        if (flag.value == nullptr && value) throw InputError(std::string(flag.name) + " takes no value");
        if (flag.value != nullptr && !value) {
            if (++place == count) throw InputError(std::string(flag.name) + " needs a value: " + flag.value);
            value = arguments[place];
        }
        flag.set(options, value.value_or(""));
    }
    if (!options.help) check(options);
    return options;
}

GenerationParams Options::params(GenerationParams defaults) const {
    const bool sampling_flags = temperature || top_k || top_p;
    defaults.num_beams = num_beams.value_or(defaults.num_beams);
    const bool fallback =
        defaults.num_beams == 1 && (sampling_flags || ((chat || serve) && defaults.do_sample));
    defaults.do_sample = do_sample.value_or(fallback);
    defaults.temperature = temperature.value_or(defaults.temperature);
    defaults.top_k = top_k.value_or(defaults.top_k);
    defaults.top_p = top_p.value_or(defaults.top_p);
    defaults.repetition_penalty = repetition_penalty.value_or(defaults.repetition_penalty);
    defaults.length_penalty = length_penalty.value_or(defaults.length_penalty);
    defaults.early_stopping = early_stopping.value_or(defaults.early_stopping);
    defaults.max_length = max_length.value_or(defaults.max_length);
    if (max_new_tokens) defaults.max_new_tokens = max_new_tokens;
    if (seed) defaults.seed = seed;
    defaults.check();
    return defaults;
}

std::string usage() {
    std::string text =
        "usage: paddle_glm_infer --model_dir DIR (--prompt TEXT | --chat | --serve | --input_file FILE) "
        "[...]\n\n";
    for (const Flag& flag : flags()) {
        std::string left = std::string("  ") + flag.name + (flag.value ? std::string(" ") + flag.value : "");
        left.resize(std::max<size_t>(left.size() + 2, 26), ' ');
        text += left + flag.help + "\n";
    }
    return text;
}

}  // namespace paddle_glm
