#pragma once

#include <string>
#include <vector>

#include "paddle_glm/session.h"

namespace paddle_glm {

// The conversations of a JSON array or JSON lines file. A row has `messages` (or `conversations`), or a
// question under one of the keys that paddle_glm/training/readers.py knows, and `history` if it likes.
// Throws InputError with file and row for what cannot be used.
std::vector<Session::Conversation> read_rows(const std::string& file);

// One line of the output file.
std::string answer_line(const Session::Conversation& question, const Reply& reply);

}  // namespace paddle_glm
