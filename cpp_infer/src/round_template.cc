#include "round_template.h"

#include "format.h"
#include "paddle_glm/error.h"

namespace paddle_glm {

RoundTemplate::RoundTemplate(const Json& values)
    : ChatTemplate(values),
      suffix_tokens_(values.at("suffix_tokens").get<std::vector<std::string>>()),
      first_round_(values.at("first_round")),
      question_(values.at("question")),
      answer_(values.at("answer")),
      lone_question_(values.at("lone_question")) {}

std::vector<int64_t> RoundTemplate::render(const Tokenizer& tokenizer,
                                           const std::vector<Message>& messages) const {
    std::vector<int64_t> ids = prefix(tokenizer);
    const std::vector<int64_t> text = tokenizer.encode(prompt(messages));
    ids.insert(ids.end(), text.begin(), text.end());
    for (const std::string& token : suffix_tokens_) ids.push_back(tokenizer.command(token));
    return ids;
}

std::string RoundTemplate::prompt(const std::vector<Message>& messages) const {
    const size_t first = !messages.empty() && messages[0].role == "system" ? 1 : 0;
    for (size_t index = first; index < messages.size(); ++index) {
        const std::string expected = (index - first) % 2 ? "assistant" : "user";
        if (messages[index].role != expected) {
            throw InputError("message " + std::to_string(index - first + 1) + " has the role '" +
                             messages[index].role + "', expected '" + expected + "': " + name_ +
                             " takes one optional system message, then user and assistant in turn");
        }
    }
    if ((messages.size() - first) % 2 == 0) {
        throw InputError("a conversation must end with a user message to be answered");
    }
    std::string query = (first ? messages[0].content : "") + messages.back().content;
    std::string text;
    int64_t round = first_round_;
    for (size_t index = first; index + 1 < messages.size(); index += 2, ++round) {
        text += format(question_, {{"round", std::to_string(round)}, {"query", messages[index].content}});
        text += format(answer_, {{"response", messages[index + 1].content}});
    }
    const std::string& last = text.empty() ? lone_question_ : question_;
    return text + format(last, {{"round", std::to_string(round)}, {"query", query}});
}

std::vector<Message> RoundTemplate::parse(const std::u32string& text, bool) const {
    return {{"assistant", process_response(text)}};
}

}  // namespace paddle_glm
