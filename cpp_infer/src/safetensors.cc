#include "safetensors.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "paddle_glm/error.h"

namespace paddle_glm {
namespace {

// Format: 8 bytes of header length, a JSON header, the tensors' bytes; little-endian, like the machines that
// Paddle supports.
std::map<std::string, std::vector<float>> parsed(const std::string& bytes) {
    uint64_t length = 0;
    if (bytes.size() < sizeof length) throw InputError("it is too short");
    std::memcpy(&length, bytes.data(), sizeof length);
    if (length > bytes.size() - sizeof length) throw InputError("its header is cut off");
    const std::string data = bytes.substr(sizeof length + length);
    std::map<std::string, std::vector<float>> tensors;
    const auto header = nlohmann::json::parse(bytes.substr(sizeof length, length));
    for (const auto& [name, entry] : header.items()) {
        if (name == "__metadata__") continue;
        const uint64_t begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
        if (entry.at("dtype") != "F32" || begin > end || end > data.size() || (end - begin) % sizeof(float)) {
            throw InputError(name + " is no whole float32 tensor");
        }
        std::vector<float>& values = tensors[name];
        values.resize((end - begin) / sizeof(float));
        if (begin < end) std::memcpy(values.data(), data.data() + begin, end - begin);
    }
    return tensors;
}

}  // namespace

std::map<std::string, std::vector<float>> read_safetensors(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(stream)), {});
    try {
        return parsed(bytes);
    } catch (const std::exception& error) {
        throw InputError(file + " is no safetensors file of this program (" + error.what() +
                         "): export the model again");
    }
}

}  // namespace paddle_glm
