#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace paddle_glm {

// The rows of a file that holds a JSON array, or one JSON value per line, in UTF-8. Throws InputError with
// the command that converts a file in another encoding, and with file and row for what is no JSON.
std::vector<nlohmann::ordered_json> read_row_file(const std::string& file);

}  // namespace paddle_glm
