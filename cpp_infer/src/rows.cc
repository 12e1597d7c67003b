#include "rows.h"

#include <iostream>

#include "row_file.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

using Json = nlohmann::ordered_json;

// KNOWN_COLUMNS of paddle_glm/data/row_formats.py, first match first; tests/golden/rows.json checks that both
// agree.
const Columns kLayouts[] = {
    {"", "", "", "", "messages"},
    {"", "", "", "", "conversations"},
    {"content", "summary", "", "", ""},
    {"instruction", "output", "history", "input", ""},
    {"src", "tgt", "", "", ""},
    {"prompt", "response", "history", "", ""},
    {"query", "response", "history", "", ""},
    {"question", "answer", "history", "", ""},
};

std::string joined(const std::vector<std::string>& words, const std::string& between) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
    return text.empty() ? "none" : text;
}

std::string keys(const Json& row) {
    std::vector<std::string> names;
    for (const auto& item : row.items()) names.push_back(item.key());
    return joined(names, ", ");
}

std::string shown(const Json& value) {
    const std::u32string text = to_code_points(value.dump());
    return text.size() <= 60 ? to_utf8(text) : to_utf8(text.substr(0, 57)) + "...";
}

bool is_blank(const std::string& text) { return strip(to_code_points(text)).empty(); }

// The value of a key, or null.
Json get(const Json& row, const std::string& key) {
    const auto found = key.empty() ? row.end() : row.find(key);
    return found == row.end() ? Json() : *found;
}

// Whether the row has the column of the question or the conversation.
bool has_columns(const Columns& columns, const Json& row) {
    return row.contains(columns.messages.empty() ? columns.prompt : columns.messages);
}

Columns find_columns(const Json& row) {
    std::vector<std::string> known;
    for (const Columns& layout : kLayouts) {
        if (has_columns(layout, row)) return layout;
        known.push_back(layout.messages + layout.prompt + (layout.response.empty() ? "" : " + ") +
                        layout.response);
    }
    throw InputError("no known columns among " + keys(row) + " (known: " + joined(known, "; ") +
                     "): name them with --prompt_column and --response_column");
}

std::string text(const Json& value, const std::string& column) {
    if (value.is_null()) return "";
    if (!value.is_string()) throw InputError("'" + column + "' is " + shown(value) + ": expected text");
    return value;
}

// The text of a column, or the texts of a list (PaddleNLP's `src` and `tgt`).
std::vector<std::string> texts(const Json& row, const std::string& column) {
    if (!row.contains(column)) throw InputError("no column '" + column + "' among " + keys(row));
    const Json& value = row.at(column);
    if (!value.is_array() || value.empty()) return {text(value, column)};
    std::vector<std::string> result;
    for (const Json& one : value) result.push_back(text(one, column));
    return result;
}

// A list, or a list written as JSON text; empty if there is none.
Json list(const Json& value, const std::string& column) {
    Json found = value;
    if (value.is_string()) {
        const std::string written = value;
        found = is_blank(written) ? Json() : Json::parse(written, nullptr, false);
    }
    if (found.is_null()) return Json::array();
    if (!found.is_array()) throw InputError("'" + column + "' is " + shown(value) + ": expected a list");
    return found;
}

Message message(const Json& entry) {
    if (!entry.is_object()) {
        throw InputError("a message is " + shown(entry) + ": expected an object with role and content");
    }
    const auto either = [&](const char* name, const char* other) {
        return get(entry, name).is_null() ? get(entry, other) : get(entry, name);
    };
    const Json role = either("role", "from");
    if (!role.is_string()) throw InputError("a message has the role " + shown(role) + ": expected text");
    Message result{role, text(either("content", "value"), "content")};
    if (result.role == "human") result.role = "user";  // ShareGPT's role names
    if (result.role == "gpt") result.role = "assistant";
    if (const Json metadata = get(entry, "metadata"); metadata.is_string()) result.metadata = metadata;
    if (const Json tools = get(entry, "tools"); !tools.is_null()) result.tools = tools.dump();
    return result;
}

Row conversation(const Json& row, const std::string& column) {
    const Json entries = list(get(row, column), column);
    if (entries.empty()) throw InputError("'" + column + "' is []: expected a list of messages");
    Row result;
    for (const Json& entry : entries) result.question.push_back(message(entry));
    if (result.question.back().role != "assistant") return result;
    result.answer = result.question.back().content;
    result.question.pop_back();
    if (result.question.empty()) throw InputError("'" + column + "' holds an answer without a question");
    return result;
}

Row rounds(const Json& row, const Columns& columns) {
    std::vector<std::string> questions = texts(row, columns.prompt);
    const Json answers = get(row, columns.response);
    const bool answered = !answers.is_null() && answers != "";
    const std::vector<std::string> replies =
        answered ? texts(row, columns.response) : std::vector<std::string>();
    if (questions.size() != replies.size() && questions.size() != replies.size() + 1) {
        throw InputError(std::to_string(questions.size()) + " entries in '" + columns.prompt + "' but " +
                         std::to_string(replies.size()) + " in '" + columns.response +
                         "': each question needs its answer");
    }
    Row result;
    const auto add_round = [&](const std::string& question, const std::string& reply) {
        result.question.push_back({"user", question});
        result.question.push_back({"assistant", reply});
    };
    for (const Json& pair : list(get(row, columns.history), columns.history)) {
        if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
            throw InputError("'" + columns.history + "' holds " + shown(pair) +
                             ": expected [question, answer] pairs of text");
        }
        add_round(pair[0], pair[1]);
    }
    for (size_t place = 0; place + 1 < questions.size(); ++place) add_round(questions[place], replies[place]);
    const std::string more = text(get(row, columns.input), columns.input);
    result.question.push_back({"user", questions.back() + (more.empty() ? "" : "\n" + more)});
    if (replies.size() == questions.size()) result.answer = replies.back();
    return result;
}

}  // namespace

std::vector<Row> parse_rows(const std::vector<Json>& rows, const Columns& columns, const std::string& file) {
    Columns chosen = columns;
    bool history_met = columns.history.empty();
    std::vector<Row> result;
    std::vector<std::string> left_out;
    for (size_t place = 0; place < rows.size(); ++place) {
        const Json& row = rows[place];
        try {
            if (!row.is_object()) throw InputError("expected an object, found " + shown(row));
            if (columns.prompt.empty() && !has_columns(chosen, row)) chosen = find_columns(row);
            history_met = history_met || row.contains(columns.history);
            Row read = chosen.messages.empty() ? rounds(row, chosen) : conversation(row, chosen.messages);
            if (is_blank(read.question.back().content) || (read.answer && is_blank(*read.answer))) {
                left_out.push_back(std::to_string(place + 1));
            } else {
                result.push_back(std::move(read));
            }
        } catch (const InputError& error) {
            throw InputError(file + ", row " + std::to_string(place + 1) + ": " + error.what());
        }
    }
    if (!left_out.empty()) {
        std::cerr << "warning: " << file << ": left out " << left_out.size()
                  << " rows with an empty question or answer (rows " << joined(left_out, ", ") << ")\n";
    }
    if (result.empty()) throw InputError(file + " holds no usable row");
    if (!history_met) throw InputError(file + ": no row has the history column '" + columns.history + "'");
    return result;
}

std::vector<Row> read_rows(const std::string& file, const Columns& columns) {
    return parse_rows(read_row_file(file), columns, file);
}

std::string answer_line(const Row& row, const Reply& reply) {
    const Json line{{"src", row.question.back().content},
                    {"tgt", row.answer.value_or("")},
                    {"output", reply.text()},
                    {"ids", reply.ids}};
    return line.dump() + "\n";
}

}  // namespace paddle_glm
