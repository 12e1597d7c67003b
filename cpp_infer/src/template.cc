#include "template.h"

#include <algorithm>

#include "paddle_glm/error.h"
#include "role_template.h"
#include "round_template.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

bool is_chinese(char32_t character) { return character >= 0x4E00 && character <= 0x9FFF; }

// Replaces `narrow` by `wide` next to a Chinese character: first after one, then before one.
void widen(std::u32string& text, const std::u32string& narrow, const std::u32string& wide) {
    for (const bool behind : {true, false}) {
        for (size_t place = text.find(narrow); place != text.npos; place = text.find(narrow, place + 1)) {
            const size_t beside = behind ? place - 1 : place + narrow.size();  // -1 wraps beyond the end
            if (beside < text.size() && is_chinese(text[beside])) text.replace(place, narrow.size(), wide);
        }
    }
}

std::vector<std::pair<std::u32string, std::u32string>> pairs(const Json& values) {
    std::vector<std::pair<std::u32string, std::u32string>> result;
    for (const Json& pair : values) {
        result.emplace_back(to_code_points(pair.at(0)), to_code_points(pair.at(1)));
    }
    return result;
}

}  // namespace

ChatTemplate::ChatTemplate(const Json& values)
    : name_(values.at("name")),
      prefix_tokens_(values.at("prefix_tokens").get<std::vector<std::string>>()),
      replacements_(pairs(values.at("replacements"))),
      wide_punctuation_(pairs(values.at("wide_punctuation"))) {}

std::string ChatTemplate::process_response(const std::u32string& text) const {
    std::u32string result = strip(text);
    for (const auto& [from, to] : replacements_) replace_all(result, from, to);
    for (const auto& [narrow, wide] : wide_punctuation_) widen(result, narrow, wide);
    return to_utf8(result);
}

size_t ChatTemplate::pending_length(const std::u32string& visible) const {
    size_t longest = 0;
    for (const auto& [from, to] : replacements_) {
        for (size_t size = 1; size < from.size(); ++size) {
            if (ends_with(visible, from.substr(0, size))) longest = std::max(longest, size);
        }
    }
    for (const auto& [narrow, wide] : wide_punctuation_) {
        if (ends_with(visible, narrow)) longest = std::max(longest, narrow.size());
    }
    return longest;
}

std::vector<int64_t> ChatTemplate::prefix(const Tokenizer& tokenizer) const {
    std::vector<int64_t> ids;
    for (const std::string& token : prefix_tokens_) ids.push_back(tokenizer.command(token));
    return ids;
}

std::unique_ptr<ChatTemplate> make_template(const Json& values) {
    try {
        const std::string layout = values.at("layout");
        if (layout == "rounds") return std::make_unique<RoundTemplate>(values);
        if (layout == "roles") return std::make_unique<RoleTemplate>(values);
        throw InputError("template layout \"" + layout +
                         "\" is unknown: this program knows rounds and roles");
    } catch (const Json::exception& error) {
        throw InputError(std::string("the exported template cannot be read (") + error.what() +
                         "): export the model again");
    }
}

std::string visible_text(const std::vector<Message>& messages) {
    std::string text;
    for (size_t index = 0; index < messages.size(); ++index) {
        text += (index ? "\n" : "") + messages[index].content;
    }
    return text;
}

}  // namespace paddle_glm
