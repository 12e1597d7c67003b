#pragma once

#include <string>

namespace paddle_glm {

// Text as code points, like Python's str. Invalid UTF-8 becomes U+FFFD.
std::u32string to_code_points(const std::string& text);
std::string to_utf8(const std::u32string& text);

bool is_utf8(const std::string& text);

// White space as defined by Python's str.isspace and str.strip.
bool is_space(char32_t character);
std::u32string strip(const std::u32string& text);

void replace_all(std::string& text, const std::string& from, const std::string& to);
void replace_all(std::u32string& text, const std::u32string& from, const std::u32string& to);
bool starts_with(const std::string& text, const std::string& beginning);
bool ends_with(const std::u32string& text, const std::u32string& end);

}  // namespace paddle_glm
