#pragma once

namespace paddle_glm {

// SIGINT and SIGTERM, waited for by a thread. One at a time.
class StopSignal {
  public:
    StopSignal();

    // Waits for the next signal, for at most `seconds` (-1: without limit); false at that time and after
    // `end`.
    bool wait(int seconds) const;
    // Ends `wait`.
    void end() const;
};

}  // namespace paddle_glm
