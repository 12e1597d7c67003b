#pragma once

#include <stdexcept>

namespace paddle_glm {

// An error the user can fix: a file, a flag, a conversation. The message is one line with the value, what was
// expected and how to fix it.
class InputError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace paddle_glm
