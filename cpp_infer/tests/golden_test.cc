// Replays files of tests/golden, which tests/golden/make_golden.py wrote from the Python code:
//   golden_test FILE...

#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>

#include "generate.h"
#include "mkl.h"
#include "random.h"
#include "response.h"
#include "rows.h"
#include "sampler.h"
#include "step_inputs.h"
#include "template.h"
#include "text_stream.h"
#include "tokenizer.h"
#include "toy_engine.h"
#include "utf8.h"

namespace {

using namespace paddle_glm;

int failures = 0;

void expect(bool good, const std::string& what, const Json& found, const Json& expected) {
    if (good) return;
    ++failures;
    std::cerr << what << "\n  found    " << found.dump() << "\n  expected " << expected.dump() << '\n';
}

void expect_equal(const std::string& what, const Json& found, const Json& expected) {
    expect(found == expected, what, found, expected);
}

// Probabilities: the exponential function differs between libraries in the last bit.
void expect_close(const std::string& what, const std::vector<double>& found,
                  const std::vector<double>& expected) {
    bool good = found.size() == expected.size();
    for (size_t place = 0; good && place < found.size(); ++place) {
        good = std::fabs(found[place] - expected[place]) <= 1e-14;
    }
    expect(good, what, found, expected);
}

GenerationParams params_of(const Json& value) {
    GenerationParams params;
    params.max_length = 1000;
    params.do_sample = value.value("do_sample", true);
    params.temperature = value.value("temperature", 1.0);
    params.top_k = value.value("top_k", 0);
    params.top_p = value.value("top_p", 1.0);
    params.repetition_penalty = value.value("repetition_penalty", 1.0);
    params.num_beams = value.value("num_beams", 1);
    params.length_penalty = value.value("length_penalty", 1.0);
    params.early_stopping = value.value("early_stopping", false);
    if (value.contains("seed")) params.seed = value.at("seed").get<uint64_t>();
    if (value.contains("max_new_tokens")) params.max_new_tokens = value.at("max_new_tokens").get<int64_t>();
    return params;
}

std::vector<Message> messages_of(const Json& values) {
    std::vector<Message> messages;
    for (const Json& one : values) {
        messages.push_back({one.at("role"), one.at("content"), one.value("metadata", "")});
        if (one.contains("tools")) messages.back().tools = one.at("tools").dump();
    }
    return messages;
}

void sampling(const Json& one, const Json&, const std::string& name) {
    std::vector<float> logits = one.at("logits");
    const GenerationParams params = params_of(one.at("params"));
    std::vector<char> seen(logits.size(), 0);
    for (const size_t id : one.at("seen")) seen.at(id) = 1;
    apply_repetition_penalty(logits.data(), seen, params.repetition_penalty);
    expect_equal(name + " penalised", logits, one.at("penalised").get<std::vector<float>>());
    const auto vocab = static_cast<int64_t>(logits.size());
    const Candidates found = top_k_top_p_filter(logits.data(), vocab, params);
    expect_equal(name + " ids", found.ids, one.at("ids"));
    expect_close(name + " probabilities", found.probabilities, one.at("probabilities"));
    for (const Json& pair : one.at("draws")) {
        expect_equal(name + " draw", sample_token(logits.data(), vocab, pair.at(0), params), pair.at(1));
    }
}

void random_numbers(const Json& one, const Json&, const std::string& name) {
    Random random(one.at("seed").get<uint64_t>());
    for (const Json& number : one.at("numbers")) expect_equal(name, random.next(), number);
}

void position(const Json& one, const Json&, const std::string& name) {
    const Json& rule = one.at("rule");
    PositionRule parsed;
    parsed.blank = rule.at("rule") == "blank";
    if (parsed.blank) {
        parsed = {true, rule.at("start"), rule.at("blanks"), rule.at("rows"), -1};
        if (!rule.at("counts_on").is_null()) parsed.counts_on = rule.at("counts_on");
    }
    const TokenBatch tokens{one.at("input_ids"), one.at("attention_mask")};
    const std::vector<TensorMeta> steps{{"i", "int64", {}}, {"p", "int64", {}}, {"m", "int64", {}}};
    for (const Json& step : one.at("steps")) {
        const auto inputs = step_inputs(steps, parsed, tokens, step.at("tokens"), 0);
        expect_equal(name + " shape", inputs[1].shape, step.at("shape"));
        expect_equal(name + " values", inputs[1].values, step.at("values"));
    }
}

void loop(const Json& one, const Json& shared, const std::string& name) {
    ToyEngine engine(shared.at("vocab"));
    Meta meta;
    meta.vocab_size = shared.at("vocab");
    meta.max_sequence_length = shared.at("max_sequence_length");
    meta.stop_token_ids = shared.at("stop_token_ids").get<std::vector<int64_t>>();
    meta.token_inputs = {
        {"input_ids", "int64", {}}, {"position_ids", "int64", {}}, {"attention_mask", "int64", {}}};
    std::vector<std::vector<int64_t>> columns;
    const auto keep = [&](const std::vector<int64_t>& column) {
        columns.push_back(column);
        return true;
    };
    Timing timing;
    generate(engine, meta, one.at("prompts"), params_of(one.at("params")), keep, timing);
    expect_equal(name, columns, one.at("columns"));
}

void response(const Json& one, const Json&, const std::string& name) {
    const auto chat_template = make_template(one.at("template"));
    StreamingResponseParser stream(*chat_template);
    for (const Json& pair : one.at("pieces")) {
        expect_equal(name + " piece", stream.push(to_code_points(pair.at(0))), pair.at(1));
    }
    expect_equal(name + " rest", stream.finish(), one.at("rest"));
    const std::vector<Message> found = stream.messages();
    const std::vector<Message> expected = messages_of(one.at("messages"));
    expect_equal(name + " messages", found.size(), expected.size());
    for (size_t place = 0; place < std::min(found.size(), expected.size()); ++place) {
        expect_equal(name + " role", found[place].role, expected[place].role);
        expect_equal(name + " content", found[place].content, expected[place].content);
        expect_equal(name + " metadata", found[place].metadata, expected[place].metadata);
    }
}

// Loading one takes longer than all cases.
const Tokenizer& tokenizer_of(const std::string& file, const Json& facts) {
    static std::map<std::string, Tokenizer> loaded;
    const std::string key = file + facts.dump();
    if (const auto found = loaded.find(key); found != loaded.end()) return found->second;
    return loaded
        .try_emplace(key, file, read_tokenizer_spec(facts.at("spelling")), facts.at("special_tokens"))
        .first->second;
}

void text(const Json& one, const Json& shared, const std::string& name) {
    const Json& facts = shared.at("tokenizers").at(one.at("family").get<std::string>());
    const Tokenizer& tokenizer = tokenizer_of(shared.at("file"), facts);
    if (one.contains("messages")) {
        const auto chat_template = make_template(facts.at("template"));
        expect_equal(name + " prompt", chat_template->render(tokenizer, messages_of(one.at("messages"))),
                     one.at("ids"));
        return;
    }
    StreamingDetokenizer stream([&](const std::vector<int64_t>& ids) { return tokenizer.decode(ids); });
    if (one.contains("text")) expect_equal(name + " encode", tokenizer.encode(one.at("text")), one.at("ids"));
    expect_equal(name + " decode", tokenizer.decode(one.at("ids")), one.at("decoded"));
    for (size_t place = 0; place < one.at("ids").size(); ++place) {
        expect_equal(name + " piece", to_utf8(stream.push(one.at("ids")[place])), one.at("pieces")[place]);
    }
    expect_equal(name + " rest", to_utf8(stream.finish()), one.at("rest"));
}

void rows(const Json& one, const Json&, const std::string& name) {
    Columns columns;
    if (const Json& named = one.at("columns"); !named.is_null()) {
        columns.prompt = named.value("prompt", "");
        columns.response = named.value("response", "");
        columns.history = named.value("history", "");
    }
    std::vector<Row> found;
    try {
        found = parse_rows(nlohmann::ordered_json::parse(one.at("rows").dump()), columns, "rows.json");
    } catch (const InputError& error) {
        expect(one.contains("refused"), name, error.what(), one);
        return;
    }
    expect(!one.contains("refused"), name, "read", one);
    Json plain = Json::array();
    for (const Row& row : found) {
        Json question = Json::array();
        for (const Message& message : row.question) {
            question.push_back({message.role, message.content, message.metadata, message.tools});
        }
        plain.push_back({{"question", question}, {"answer", row.answer ? Json(*row.answer) : Json()}});
    }
    expect_equal(name, plain, one.value("read", Json()));
}

void mkl(const Json& one, const Json&, const std::string& name) {
    const std::string file =
        std::filesystem::temp_directory_path() / ("paddle_glm_cpuinfo_" + std::to_string(getpid()));
    std::filesystem::remove(file);
    if (const Json& text = one.at("cpuinfo"); !text.is_null()) std::ofstream(file) << text.get<std::string>();
    const std::array<const char*, 3> variables{"MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR"};
    for (const char* variable : variables) unsetenv(variable);
    for (const auto& [variable, value] : one.at("environment").items()) {
        setenv(variable.c_str(), value.get<std::string>().c_str(), 1);
    }
    choose_mkl_instructions(file);
    std::filesystem::remove(file);
    const char* found = std::getenv(variables[0]);
    expect_equal(name, found == nullptr ? Json() : Json(found), one.at("value"));
}

void replay(const std::string& file) {
    using Replay = std::function<void(const Json&, const Json&, const std::string&)>;
    const std::map<std::string, Replay> kinds{{"sampling", sampling},  {"random", random_numbers},
                                              {"positions", position}, {"loop", loop},
                                              {"response", response},  {"text", text},
                                              {"rows", rows},          {"mkl", mkl}};
    std::ifstream stream(file);
    Json values = Json::parse(stream);
    if (values.contains("file")) {
        values["file"] =
            (std::filesystem::path(file).parent_path() / values["file"].get<std::string>()).string();
    }
    const std::string kind = values.at("kind");
    size_t count = 0;
    for (const Json& one : values.at("cases")) {
        kinds.at(kind)(one, values, kind + " " + std::to_string(count++));
    }
    std::cout << file << ": " << count << " cases\n";
}

}  // namespace

int main(int count, char** arguments) {
    for (int place = 1; place < count; ++place) replay(arguments[place]);
    if (failures) std::cerr << failures << " failures\n";
    return failures || count < 2 ? 1 : 0;
}
