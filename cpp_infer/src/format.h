#pragma once

#include <map>
#include <string>

namespace paddle_glm {

// `{name}` in a pattern becomes values[name], `{{` and `}}` a brace, as in Python's str.format.
// Throws InputError for a name that has no value.
std::string format(const std::string& pattern, const std::map<std::string, std::string>& values);

}  // namespace paddle_glm
