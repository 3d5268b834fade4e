// Sockets as the mesh uses them: non-blocking, closed on exec, unix (abstract names) or TCP.
//
// Law: nothing here waits. Names of hosts are resolved once, at connect time; whoever connects over
// a unix socket is asked for its user by the kernel.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/status.h"

namespace dsv3::comm {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { close(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  bool is_unix() const { return storage.ss_family == AF_UNIX; }
};

// An abstract unix address: it leaves nothing in the file system and goes with its socket. `name`
// has at most 100 bytes.
Address unix_address(const std::string& name);
// HOST (a name or a number) and PORT; kInvalid when the host isn't known.
Result<Address> resolve_tcp(const std::string& host, const std::string& port);
// "10.0.0.1:7000" or "[fe80::1]:7000": numbers only, for what a peer sent. kInvalid otherwise.
Result<Address> parse_tcp(const std::string& text);
// The reverse of parse_tcp.
std::string tcp_text(const Address& address);
// The socket's own address.
Address local_address(int fd);
void set_port(Address& address, uint16_t port);

// A listening socket. kConflict when the address is taken, kInvalid when it isn't this host's.
Result<Fd> listen_at(const Address& address);
// The next connection that waits at `listener`, tuned; invalid when there is none.
Fd accept_at(int listener);
// Starts to connect. `error` is 0 (connected), EINPROGRESS (wait for POLLOUT, then connect_error())
// or why not.
Fd start_connect(const Address& address, int& error);
// What became of a connection in progress: 0 or an errno.
int connect_error(int fd);
// True for TCP, and for a unix socket whose other end is of this process's user.
bool is_same_user(int fd);

// Now, in nanoseconds of the steady clock.
int64_t now_ns();
// "connection refused" and so on.
std::string error_text(int error);

}  // namespace dsv3::comm
