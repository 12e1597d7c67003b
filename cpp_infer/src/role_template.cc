#include "role_template.h"

#include "format.h"
#include "paddle_glm/error.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

// Tools as THUDM's code appends them to a system message: indented JSON, keys in the given order.
std::string format_tools(const std::string& tools) {
    try {
        return "\n" + Json::parse(tools).dump(4);
    } catch (const Json::exception& error) {
        throw InputError(std::string("the tools of a message are not valid JSON: ") + error.what());
    }
}

}  // namespace

RoleTemplate::RoleTemplate(const Json& values)
    : ChatTemplate(values), header_(values.at("header")), reply_role_(values.at("reply_role")) {
    for (const Json& pair : values.at("roles")) roles_[pair.at(0)] = pair.at(1);
}

std::vector<int64_t> RoleTemplate::render(const Tokenizer& tokenizer,
                                          const std::vector<Message>& messages) const {
    if (messages.empty() || messages.back().role == reply_role_) {
        throw InputError("a conversation must end with a message to be answered, not with the model's own");
    }
    std::vector<int64_t> ids = prefix(tokenizer);
    for (const Message& message : messages) {
        std::string content = message.content;
        if (message.role == "system" && !message.tools.empty()) content += format_tools(message.tools);
        ids.push_back(tokenizer.command(role_token(message.role)));
        for (const std::string& text : {format(header_, {{"metadata", message.metadata}}), content}) {
            const std::vector<int64_t> tokens = tokenizer.encode(text);
            ids.insert(ids.end(), tokens.begin(), tokens.end());
        }
    }
    ids.push_back(tokenizer.command(role_token(reply_role_)));
    return ids;
}

std::vector<Message> RoleTemplate::parse(const std::u32string& text, bool partial) const {
    const std::u32string token = to_code_points(role_token(reply_role_));
    std::vector<Message> messages;
    size_t begin = 0;
    while (true) {
        const size_t end = text.find(token, begin);
        const std::u32string part = text.substr(begin, end == text.npos ? end : end - begin);
        const bool last = end == text.npos;
        // A header line may still follow, which is not visible.
        if (last && partial && part.find(U'\n') == part.npos) return messages;
        messages.push_back(parse_one(part));
        if (last) return messages;
        begin = end + token.size();
    }
}

Message RoleTemplate::parse_one(const std::u32string& text) const {
    const size_t line = text.find(U'\n');
    if (line == text.npos) return {reply_role_, process_response(text)};
    return {reply_role_, process_response(text.substr(line + 1)), to_utf8(strip(text.substr(0, line)))};
}

const std::string& RoleTemplate::role_token(const std::string& role) const {
    const auto found = roles_.find(role);
    if (found != roles_.end()) return found->second;
    std::string known;
    for (const auto& [name, token] : roles_) known += (known.empty() ? "" : ", ") + name;
    throw InputError("role '" + role + "' is unknown to " + name_ + ": it knows " + known);
}

}  // namespace paddle_glm
