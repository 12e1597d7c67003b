#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "paddle_glm/session.h"

namespace paddle_glm {

// Keys of a row, empty where it has none: `Columns` of paddle_glm/data/row_formats.py.
struct Columns {
    std::string prompt;
    std::string response;
    std::string history;
    std::string input;
    std::string messages;
};

// What is asked, and the answer to it that the row holds.
struct Row {
    Session::Conversation question;
    std::optional<std::string> answer;
};

// The rows that ask something, read as Python's `load_examples(..., answers=False)` reads them: those whose
// question, or answer where there is one, is blank are left out with a warning on standard error. Columns
// without a name for the question are found by the rows' keys. Throws InputError with file and row for what
// cannot be used.
std::vector<Row> parse_rows(const std::vector<nlohmann::ordered_json>& rows, const Columns& columns,
                            const std::string& file);
std::vector<Row> read_rows(const std::string& file, const Columns& columns);

// One line of the output file.
std::string answer_line(const Row& row, const Reply& reply);

}  // namespace paddle_glm
