#include "paddle_glm/session.h"

#include <algorithm>
#include <map>
#include <utility>

#include "engine_loader.h"
#include "generate.h"
#include "meta.h"
#include "response.h"
#include "safetensors.h"
#include "template.h"
#include "text_stream.h"
#include "tokenizer.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

EngineConfig engine_config(const std::string& folder, const Meta& meta, const EngineOptions& options) {
    EngineConfig config;
    config.graph_file = folder + "/" + meta.graph_files.at(0);
    if (meta.graph_files.size() > 1) config.weights_file = folder + "/" + meta.graph_files[1];
    config.token_inputs = meta.token_inputs;
    config.max_length = meta.max_sequence_length;
    config.target = meta.target;
    config.quantised = meta.quantised;
    config.upcasts_weights = meta.upcasts_weights;
    config.backend = options.backend;
    config.operators = meta.operators;
    config.prefix_length = meta.prefix_cache.length;
    std::map<std::string, std::vector<float>> first;
    if (config.prefix_length > 0) first = read_safetensors(folder + "/" + meta.prefix_cache.file);
    for (const TensorMeta& one : meta.caches) {
        const auto size = one.shape.at(1) * config.prefix_length * one.shape.at(3);
        std::vector<float> values = std::move(first[one.name]);
        if (static_cast<int64_t>(values.size()) != size) {
            throw InputError(meta.prefix_cache.file + " has " + std::to_string(values.size()) +
                             " numbers for " + one.name + ", expected " + std::to_string(size) +
                             ": export the model again");
        }
        config.caches.push_back({one, std::move(values)});
    }
    config.threads = usable_threads(options.threads);
    return config;
}

}  // namespace

std::string Reply::text() const { return visible_text(messages); }

struct Session::State {
    State(const std::string& folder, const EngineOptions& options)
        : meta(read_meta(folder)),
          chat_template(make_template(meta.chat_template)),
          tokenizer(folder + "/" + meta.tokenizer_file, meta.tokenizer_spec, meta.special_tokens),
          engine(load_engine(options, meta.format, engine_config(folder, meta, options))) {}

    bool is_stop_token(int64_t token) const {
        const auto& ids = meta.stop_token_ids;
        return std::find(ids.begin(), ids.end(), token) != ids.end();
    }

    Reply reply(const std::vector<int64_t>& prompt) const {
        Reply result;
        result.prompt_tokens = static_cast<int64_t>(prompt.size());
        return result;
    }

    Meta meta;
    std::unique_ptr<ChatTemplate> chat_template;
    Tokenizer tokenizer;
    std::unique_ptr<Engine> engine;
    Timing timing;
};

Session::Session(const std::string& folder, const EngineOptions& options)
    : state_(std::make_unique<State>(folder, options)) {}

Session::~Session() = default;
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;

GenerationParams Session::defaults() const { return state_->meta.sampling; }

const Timing& Session::timing() const { return state_->timing; }

void Session::check(const Conversation& messages, const GenerationParams& params) const {
    params.check();
    const auto prompt = state_->chat_template->render(state_->tokenizer, messages);
    max_answer_length(params, state_->meta, static_cast<int64_t>(prompt.size()));
}

Reply Session::stream(const Conversation& messages, const GenerationParams& params,
                      const Callback& callback) {
    const std::vector<int64_t> prompt = state_->chat_template->render(state_->tokenizer, messages);
    Reply reply = state_->reply(prompt);
    StreamingDetokenizer text([&](const std::vector<int64_t>& ids) { return state_->tokenizer.decode(ids); });
    StreamingResponseParser response(*state_->chat_template);
    bool wanted = true;
    const auto on_tokens = [&](const std::vector<int64_t>& column) {
        reply.complete = state_->is_stop_token(column[0]);
        if (reply.complete) return false;
        const std::string piece = response.push(text.push(column[0]));
        wanted = callback(piece);
        return wanted;
    };
    generate(*state_->engine, state_->meta, {prompt}, params, on_tokens, state_->timing);
    std::string rest = response.push(text.finish());
    rest += response.finish();
    if (wanted && !rest.empty()) callback(rest);
    reply.messages = response.messages();
    reply.ids = text.ids();
    return reply;
}

std::vector<Reply> Session::answer(const std::vector<Conversation>& batch, const GenerationParams& params) {
    std::vector<std::vector<int64_t>> prompts;
    std::vector<Reply> replies;
    for (const Conversation& messages : batch) {
        prompts.push_back(state_->chat_template->render(state_->tokenizer, messages));
        replies.push_back(state_->reply(prompts.back()));
    }
    if (prompts.empty()) return replies;
    const auto on_tokens = [&](const std::vector<int64_t>& column) {
        for (size_t row = 0; row < column.size(); ++row) {
            if (column[row] < 0) continue;
            replies[row].complete = state_->is_stop_token(column[row]);
            if (!replies[row].complete) replies[row].ids.push_back(column[row]);
        }
        return true;
    };
    generate(*state_->engine, state_->meta, prompts, params, on_tokens, state_->timing);
    for (Reply& reply : replies) {
        reply.messages =
            state_->chat_template->parse(to_code_points(state_->tokenizer.decode(reply.ids)), false);
    }
    return replies;
}

}  // namespace paddle_glm
