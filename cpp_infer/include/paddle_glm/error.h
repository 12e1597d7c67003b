#pragma once

#include <stdexcept>

namespace paddle_glm {

// Something that a user can mend: a file, a flag, a conversation. The message is one line that names the
// value, what was expected and how to mend it.
class InputError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace paddle_glm
