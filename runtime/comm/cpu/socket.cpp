// Sockets: see socket.h. The options below are set on every connection alike.
#include "runtime/comm/cpu/socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>

#include "base/check.h"

namespace dsv3::comm {
namespace {

// Bytes that may be under way on a connection. A TCP connection gets fixed buffers: with the
// kernel's own choice a connection that carried small messages can fall to one segment per delayed
// acknowledgement (40 ms) on a loopback of large packets.
constexpr int kUnixBufferBytes = 1 << 20;
constexpr int kTcpBufferBytes = 4 << 20;
// A TCP peer that acknowledges nothing for so long is lost, also while nothing is sent.
constexpr int kTcpUserTimeoutMs = 15'000;
constexpr int kKeepIdleSeconds = 5;
constexpr int kKeepIntervalSeconds = 3;
constexpr int kKeepProbes = 3;

void set_option(int fd, int level, int option, int value) {
  (void)setsockopt(fd, level, option, &value, sizeof(value));  // an option refused is a slower link
}

void set_buffer(int fd, int forced, int plain, int bytes) {
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof(bytes)) != 0)
    set_option(fd, SOL_SOCKET, plain, bytes);
}

void tune(int fd, bool is_unix) {
  const int bytes = is_unix ? kUnixBufferBytes : kTcpBufferBytes;
  set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, bytes);
  set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, bytes);
  if (is_unix) return;
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepProbes);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kTcpUserTimeoutMs);
}

Result<Address> lookup(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0 || found == nullptr) {
    return Status(Code::kInvalid,
                  "the address '" + host + ":" + port + "' is not known: " + gai_strerror(error));
  }
  Address address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

}  // namespace

void Fd::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Address unix_address(const std::string& name) {
  Address address;
  sockaddr_un un{};
  DSV3_CHECK(name.size() <= 100);
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path + 1, name.data(), name.size());  // a leading zero byte: abstract
  std::memcpy(&address.storage, &un, sizeof(un));
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

Result<Address> resolve_tcp(const std::string& host, const std::string& port) {
  return lookup(host, port, 0);
}

Result<Address> parse_tcp(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return Status(Code::kInvalid, "'" + text + "' has no port");
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  return lookup(host, text.substr(colon + 1), AI_NUMERICHOST);
}

std::string tcp_text(const Address& address) {
  char host[INET6_ADDRSTRLEN + 32] = "";
  char port[16] = "";
  getnameinfo(reinterpret_cast<const sockaddr*>(&address.storage), address.length, host,
              sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
  const bool v6 = address.storage.ss_family == AF_INET6;
  return (v6 ? "[" : "") + std::string(host) + (v6 ? "]:" : ":") + port;
}

Address local_address(int fd) {
  Address address;
  address.length = sizeof(address.storage);
  (void)getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length);
  return address;
}

void set_port(Address& address, uint16_t port) {
  if (address.storage.ss_family == AF_INET6)
    reinterpret_cast<sockaddr_in6*>(&address.storage)->sin6_port = htons(port);
  else
    reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port = htons(port);
}

Result<Fd> listen_at(const Address& address) {
  Fd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid())
    return Status(Code::kFailed, "no socket can be made: " + error_text(errno),
                  "raise the limit of open files");
  const std::string shown = address.is_unix() ? "a unix name" : tcp_text(address);
  if (!address.is_unix()) set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  tune(fd.get(), address.is_unix());  // a TCP window is agreed on at connect: before listen()
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0) {
    const int error = errno;
    return Status(error == EADDRINUSE ? Code::kConflict : Code::kInvalid,
                  "cannot listen at " + shown + ": " + error_text(error),
                  error == EADDRINUSE ? "each attempt needs a rendezvous of its own" : "");
  }
  return fd;
}

Fd accept_at(int listener) {
  for (;;) {
    Fd fd(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid() && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd.valid()) {
      Address own = local_address(fd.get());
      tune(fd.get(), own.is_unix());
    }
    return fd;
  }
}

Fd start_connect(const Address& address, int& error) {
  Fd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  error = 0;
  if (!fd.valid()) {
    error = errno;
    return fd;
  }
  tune(fd.get(), address.is_unix());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0)
    error = errno == EINTR ? EINPROGRESS : errno;
  return fd;
}

int connect_error(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
  return error;
}

bool is_same_user(int fd) {
  if (!local_address(fd).is_unix()) return true;
  ucred peer{};
  socklen_t length = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == geteuid();
}

int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

std::string error_text(int error) {
  char buffer[128] = "";
  return strerror_r(error, buffer, sizeof(buffer));  // the GNU form: thread-safe
}

}  // namespace dsv3::comm
