#include "format.h"

#include "paddle_glm/error.h"

namespace paddle_glm {

std::string format(const std::string& pattern, const std::map<std::string, std::string>& values) {
    std::string result;
    for (size_t place = 0; place < pattern.size(); ++place) {
        const char character = pattern[place];
        const bool brace = character == '{' || character == '}';
        if (!brace || (place + 1 < pattern.size() && pattern[place + 1] == character)) {
            result += character;
            place += brace;
            continue;
        }
        const size_t end = pattern.find('}', place);
        const auto found = character == '}' || end == pattern.npos
                               ? values.end()
                               : values.find(pattern.substr(place + 1, end - place - 1));
        if (found == values.end()) {
            throw InputError("the exported template holds \"" + pattern +
                             "\", which this program cannot fill in");
        }
        result += found->second;
        place = end;
    }
    return result;
}

}  // namespace paddle_glm
