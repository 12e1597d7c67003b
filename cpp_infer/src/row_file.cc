#include "row_file.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "paddle_glm/error.h"
#include "utf8.h"

namespace paddle_glm {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kBlank = " \t\r\n";

// Quotes `word` for a shell.
std::string quoted(std::string word) {
    replace_all(word, "'", "'\"'\"'");
    return "'" + word + "'";
}

std::string conversion(const std::filesystem::path& file, const std::string& encoding) {
    auto target = file;
    target.replace_filename(file.stem().string() + "-utf8" + file.extension().string());
    return "convert it: iconv -f " + encoding + " -t UTF-8 " + quoted(file.string()) + " > " +
           quoted(target.string());
}

// iconv's name of UTF-16 or UTF-32 text, detected by byte order mark or zero bytes; empty for other text.
std::string wide_encoding(const std::string& text) {
    using namespace std::string_literals;
    for (const auto& mark : {"\xFF\xFE\0\0"s, "\0\0\xFE\xFF"s}) {
        if (starts_with(text, mark)) return "UTF-32";
    }
    for (const auto& mark : {"\xFF\xFE"s, "\xFE\xFF"s}) {
        if (starts_with(text, mark)) return "UTF-16";
    }
    const size_t length = std::min<size_t>(text.size(), 4096);
    size_t zeros[2] = {0, 0};
    for (size_t place = 0; place < length; ++place) zeros[place % 2] += text[place] == 0;
    const auto [fewer, more] = std::minmax(zeros[0], zeros[1]);
    if (more <= std::max({2 * fewer, length / 100, size_t{1}})) return "";
    return zeros[1] > zeros[0] ? "UTF-16LE" : "UTF-16BE";
}

void check_kind(const std::filesystem::path& file, const std::string& text) {
    std::string suffix = file.extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                   [](unsigned char one) { return tolower(one); });
    const bool table = suffix == ".csv" || suffix == ".tsv" || suffix == ".parquet";
    if (table || starts_with(text, "PAR1")) {
        throw InputError(file.string() +
                         ": this program reads rows as JSON or JSON lines; convert the file, or give it to "
                         "`paddle-glm infer --data_file`, which reads CSV, TSV and parquet too");
    }
}

std::string read_text_file(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw InputError(file + " not found or not readable: expected a JSON file of rows");
    std::string text((std::istreambuf_iterator<char>(stream)), {});
    check_kind(file, text);
    if (const std::string encoding = wide_encoding(text); !encoding.empty()) {
        throw InputError(file + " looks like " + encoding.substr(0, 6) +
                         ", expected UTF-8: " + conversion(file, encoding));
    }
    if (!is_utf8(text)) {
        throw InputError(file + " is not UTF-8; if it is GBK, " + conversion(file, "GB18030"));
    }
    return starts_with(text, "\xEF\xBB\xBF") ? text.substr(3) : text;  // a byte order mark
}

}  // namespace

std::vector<Json> read_row_file(const std::string& file) {
    const std::string text = read_text_file(file);
    std::vector<Json> rows;
    try {
        const size_t begin = text.find_first_not_of(kBlank);
        if (begin != text.npos && text[begin] == '[') return Json::parse(text).get<std::vector<Json>>();
        std::istringstream lines(text);
        for (std::string line; std::getline(lines, line);) {
            if (line.find_first_not_of(kBlank) != line.npos) rows.push_back(Json::parse(line));
        }
    } catch (const Json::exception& error) {
        throw InputError(file + ", row " + std::to_string(rows.size() + 1) + ": " + error.what());
    }
    return rows;
}

}  // namespace paddle_glm
