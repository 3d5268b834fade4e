// Fuzzes what one rank believes of another's bytes: hello, operation headers, control frames,
// addresses.
//
// Law (wire.h): every length and enumerator is checked before it is used; a peer's text comes out
// printable.
#include <cstring>
#include <string>

#include "base/check.h"
#include "runtime/comm/cpu/socket.h"
#include "runtime/comm/cpu/wire.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {
namespace {

Verdict verdict(bool accepted) {
  return accepted ? Verdict::kAccepted : Verdict::kRefused;
}

bool is_printable(const std::string& text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
  return true;
}

Verdict try_hello(std::string_view bytes) {
  comm::Hello hello;
  if (bytes.size() != sizeof hello) return Verdict::kRefused;
  std::memcpy(&hello, bytes.data(), sizeof hello);
  const comm::Answer answer = comm::judge(hello, "token-1", 4);
  (void)comm::answer_text(answer);
  if (answer == comm::Answer::kWelcome) DSV3_CHECK(hello.rank < 4);
  DSV3_CHECK(comm::get_text(hello.place.tcp).size() <= sizeof hello.place.tcp);
  return verdict(answer == comm::Answer::kWelcome);
}

Verdict try_headers(std::string_view bytes) {
  comm::OpHeader a, b;
  if (bytes.size() != sizeof a + sizeof b) return Verdict::kRefused;
  std::memcpy(&a, bytes.data(), sizeof a);
  std::memcpy(&b, bytes.data() + sizeof a, sizeof b);
  DSV3_CHECK(is_printable(comm::describe(a)) && is_printable(comm::describe(b)));
  return verdict(comm::is_same_operation(a, b));
}

Verdict try_control(std::string_view bytes) {
  std::string unread(bytes);
  comm::ControlKind kind = comm::ControlKind::kGoodbye;
  comm::Fault fault;
  int frames = 0;
  int taken = 0;
  for (; (taken = comm::take_control_frame(unread, kind, fault)) == 1; ++frames) {
    DSV3_CHECK(is_printable(fault.operation) && is_printable(fault.reason));
    DSV3_CHECK(fault.code != Code::kOk && fault.culprit < comm::kWorldMax);
    std::string own = comm::control_frame(kind, fault);
    comm::Fault again;
    DSV3_CHECK(comm::take_control_frame(own, kind, again) == 1 && own.empty());
    DSV3_CHECK(again.reason == fault.reason && again.code == fault.code);
  }
  return verdict(frames > 0 && taken == 0 && unread.empty());
}

}  // namespace

Verdict try_mesh_frames(std::string_view bytes) {
  if (bytes.empty()) return Verdict::kRefused;
  const std::string_view rest = bytes.substr(1);
  switch (bytes[0] & 3) {
    case 0:
      return try_hello(rest);
    case 1:
      return try_headers(rest);
    case 2:
      return try_control(rest);
    default:
      return verdict(comm::parse_tcp(std::string(rest)).ok());
  }
}

}  // namespace dsv3::fuzz
