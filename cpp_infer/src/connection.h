#pragma once

#include <string>

namespace paddle_glm {

// An open connection, found by its peer's address: httplib does not tell handlers their socket.
class Connection {
  public:
    Connection(const std::string& address, int port);

    // Whether the peer is still there; true if the socket was not found.
    bool is_open() const;

  private:
    int socket_ = -1;
};

}  // namespace paddle_glm
