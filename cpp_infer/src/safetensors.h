#pragma once

#include <map>
#include <string>
#include <vector>

namespace paddle_glm {

// The float32 tensors of a small safetensors file, by name, flat in C order. Throws InputError for an invalid
// file or another dtype.
std::map<std::string, std::vector<float>> read_safetensors(const std::string& file);

}  // namespace paddle_glm
