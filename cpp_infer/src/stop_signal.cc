#include "stop_signal.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <stdexcept>

namespace paddle_glm {
namespace {

// A handler may do little else than write to a pipe.
int pipe_ends[2];

void put(char byte) {
    if (write(pipe_ends[1], &byte, 1) != 1) std::abort();
}

void on_signal(int) {
    const int error = errno;
    put('s');
    errno = error;
}

}  // namespace

StopSignal::StopSignal() {
    if (pipe(pipe_ends) != 0) throw std::runtime_error("no pipe can be opened");
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (const int one : {SIGINT, SIGTERM}) sigaction(one, &action, nullptr);
}

bool StopSignal::wait(int seconds) const {
    pollfd readable{pipe_ends[0], POLLIN, 0};
    char byte = 0;
    return poll(&readable, 1, seconds < 0 ? -1 : 1000 * seconds) == 1 && read(pipe_ends[0], &byte, 1) == 1 &&
           byte == 's';
}

void StopSignal::end() const { put('e'); }

}  // namespace paddle_glm
