#include "utf8.h"

#include <algorithm>
#include <cstddef>

namespace paddle_glm {
namespace {

constexpr char32_t kReplacementCharacter = 0xFFFD;

// Decodes the character at `place` and advances; false, one byte further, for invalid UTF-8.
bool next(const std::string& text, size_t& place, char32_t& character) {
    const auto first = static_cast<unsigned char>(text[place++]);
    if (first < 0x80) {
        character = first;
        return true;
    }
    const int more = first >= 0xF0 && first < 0xF5   ? 3
                     : first >= 0xE0 && first < 0xF0 ? 2
                     : first >= 0xC2 && first < 0xE0 ? 1
                                                     : 0;
    if (more == 0 || place + more > text.size()) return false;
    char32_t value = first & (0x3F >> more);
    for (int index = 0; index < more; ++index) {
        const auto byte = static_cast<unsigned char>(text[place + index]);
        if ((byte & 0xC0) != 0x80) return false;
        value = value << 6 | (byte & 0x3F);
    }
    const bool overlong = (more == 2 && value < 0x800) || (more == 3 && value < 0x10000);
    if (overlong || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) return false;
    place += more;
    character = value;
    return true;
}

template <class Text>
void replace_every(Text& text, const Text& from, const Text& to) {
    for (size_t place = text.find(from); place != Text::npos; place = text.find(from, place + to.size())) {
        text.replace(place, from.size(), to);
    }
}

}  // namespace

std::u32string to_code_points(const std::string& text) {
    std::u32string result;
    result.reserve(text.size());
    for (size_t place = 0; place < text.size();) {
        char32_t character = kReplacementCharacter;
        if (!next(text, place, character)) character = kReplacementCharacter;
        result += character;
    }
    return result;
}

std::string to_utf8(const std::u32string& text) {
    std::string result;
    result.reserve(text.size() * 3);
    for (const char32_t character : text) {
        if (character < 0x80) {
            result += static_cast<char>(character);
            continue;
        }
        const int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
        result += static_cast<char>(0xFF00 >> (more + 1) | character >> 6 * more);
        for (int left = more - 1; left >= 0; --left) {
            result += static_cast<char>(0x80 | (character >> 6 * left & 0x3F));
        }
    }
    return result;
}

bool is_utf8(const std::string& text) {
    char32_t character = 0;
    for (size_t place = 0; place < text.size();) {
        if (!next(text, place, character)) return false;
    }
    return true;
}

bool is_space(char32_t character) {
    return (character >= 0x09 && character <= 0x0D) || (character >= 0x1C && character <= 0x20) ||
           character == 0x85 || character == 0xA0 || character == 0x1680 ||
           (character >= 0x2000 && character <= 0x200A) || character == 0x2028 || character == 0x2029 ||
           character == 0x202F || character == 0x205F || character == 0x3000;
}

std::u32string strip(const std::u32string& text) {
    const auto begin = std::find_if_not(text.begin(), text.end(), is_space);
    const auto end = std::find_if_not(text.rbegin(), std::make_reverse_iterator(begin), is_space).base();
    return std::u32string(begin, end);
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
    replace_every(text, from, to);
}

void replace_all(std::u32string& text, const std::u32string& from, const std::u32string& to) {
    replace_every(text, from, to);
}

bool starts_with(const std::string& text, const std::string& beginning) {
    return text.compare(0, beginning.size(), beginning) == 0;
}

bool ends_with(const std::u32string& text, const std::u32string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace paddle_glm
