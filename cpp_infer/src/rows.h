#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "paddle_glm/session.h"

namespace paddle_glm {

// Columns of a row, empty if absent: `Columns` of paddle_glm/data/row_formats.py.
struct Columns {
    std::string prompt;
    std::string response;
    std::string history;
    std::string input;
    std::string messages;
};

// The prompt of a row and its reference answer.
struct Row {
    Session::Conversation question;
    std::optional<std::string> answer;
};

// Converts rows to examples, as Python's `load_examples(..., answers=False)`: rows with a blank question or
// answer are skipped with a warning on standard error. Without named columns they are detected from the keys.
// Throws InputError with file and row for invalid rows.
std::vector<Row> parse_rows(const std::vector<nlohmann::ordered_json>& rows, const Columns& columns,
                            const std::string& file);
std::vector<Row> read_rows(const std::string& file, const Columns& columns);

// One line of the output file.
std::string answer_line(const Row& row, const Reply& reply);

}  // namespace paddle_glm
