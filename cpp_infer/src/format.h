#pragma once

#include <map>
#include <string>

namespace paddle_glm {

// Replaces `{name}` by values[name], `{{` and `}}` by braces, as Python's str.format.
// Throws InputError for an unknown name.
std::string format(const std::string& pattern, const std::map<std::string, std::string>& values);

}  // namespace paddle_glm
