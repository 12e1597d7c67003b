#include "connection.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>
#include <filesystem>

namespace paddle_glm {
namespace {

bool is_peer(int socket, const std::string& address, const std::string& port) {
    sockaddr_storage peer{};
    socklen_t size = sizeof(peer);
    auto* const generic = reinterpret_cast<sockaddr*>(&peer);
    if (getpeername(socket, generic, &size) != 0) return false;
    char host[NI_MAXHOST];
    char service[NI_MAXSERV];
    const int numeric = NI_NUMERICHOST | NI_NUMERICSERV;
    return getnameinfo(generic, size, host, sizeof(host), service, sizeof(service), numeric) == 0 &&
           address == host && port == service;
}

}  // namespace

Connection::Connection(const std::string& address, int port) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
        const int socket = std::atoi(entry.path().filename().c_str());
        if (is_peer(socket, address, std::to_string(port))) socket_ = socket;
    }
}

bool Connection::is_open() const {
    pollfd state{socket_, POLLRDHUP, 0};
    return socket_ < 0 || poll(&state, 1, 0) == 0;
}

}  // namespace paddle_glm
