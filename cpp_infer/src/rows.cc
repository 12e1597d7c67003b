#include "rows.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "utf8.h"

namespace paddle_glm {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kConversationKeys[] = {"messages", "conversations"};
constexpr const char* kQuestionKeys[] = {"content", "instruction", "src", "prompt", "query", "question"};

std::string whole_file(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw InputError(file + " not found or not readable: expected a JSON file of rows");
    std::string text((std::istreambuf_iterator<char>(stream)), {});
    return starts_with(text, "\xEF\xBB\xBF") ? text.substr(3) : text;  // a byte order mark
}

std::vector<Json> parsed_rows(const std::string& text) {
    const size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin != text.npos && text[begin] == '[') return Json::parse(text).get<std::vector<Json>>();
    std::vector<Json> rows;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.find_first_not_of(" \t\r") != line.npos) rows.push_back(Json::parse(line));
    }
    return rows;
}

Message message(const Json& value) {
    Message result{value.at("role"), value.at("content")};
    if (const auto found = value.find("metadata"); found != value.end() && found->is_string()) {
        result.metadata = *found;
    }
    if (const auto found = value.find("tools"); found != value.end()) result.tools = found->dump();
    return result;
}

Session::Conversation conversation(const Json& row) {
    Session::Conversation result;
    for (const char* key : kConversationKeys) {
        if (!row.contains(key)) continue;
        for (const Json& one : row.at(key)) result.push_back(message(one));
        if (!result.empty() && result.back().role == "assistant")
            result.pop_back();  // an answer to compare with
        return result;
    }
    for (const char* key : kQuestionKeys) {
        if (!row.contains(key)) continue;
        for (const Json& pair : row.value("history", Json::array())) {
            result.push_back({"user", pair.at(0)});
            result.push_back({"assistant", pair.at(1)});
        }
        result.push_back({"user", row.at(key)});
        if (const std::string more = row.value("input", ""); !more.empty())
            result.back().content += "\n" + more;
        return result;
    }
    throw InputError(
        "no question: expected the key content, instruction, src, prompt, query, question or messages");
}

}  // namespace

std::vector<Session::Conversation> read_rows(const std::string& file) {
    std::vector<Session::Conversation> result;
    try {
        for (const Json& row : parsed_rows(whole_file(file))) result.push_back(conversation(row));
    } catch (const Json::exception& error) {
        throw InputError(file + ", row " + std::to_string(result.size() + 1) + ": " + error.what());
    } catch (const InputError& error) {
        throw InputError(file + ", row " + std::to_string(result.size() + 1) + ": " + error.what());
    }
    return result;
}

std::string answer_line(const Session::Conversation& question, const Reply& reply) {
    const Json line{{"src", question.back().content}, {"output", reply.text()}, {"ids", reply.ids}};
    return line.dump() + "\n";
}

}  // namespace paddle_glm
