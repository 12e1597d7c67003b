#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace paddle_glm {

// Reads the rows of a UTF-8 file: a JSON array, or JSON Lines. Throws InputError with the iconv command for
// another encoding, and with file and row for invalid JSON.
std::vector<nlohmann::ordered_json> read_row_file(const std::string& file);

}  // namespace paddle_glm
