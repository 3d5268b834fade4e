// What travels between the ranks: the hello of a connection, the header of an operation, a control
// frame. All fields little endian, as laid out here (the magics refuse a host that differs).
//
// Law: these are outside bytes until checked: every length and enumerator is validated by the
// functions below before it is used. COMM.md describes the formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/comm/communicator.h"

namespace dsv3::comm {

inline constexpr uint64_t kHelloMagic = 0x316873656d337664;  // "dv3mesh1"
inline constexpr uint32_t kAnswerMagic = 0x6e613364;         // "d3an"
inline constexpr uint32_t kHeaderMagic = 0x706f3364;         // "d3op"
inline constexpr uint32_t kControlMagic = 0x74633364;        // "d3ct"
inline constexpr uint32_t kWireVersion = 1;
inline constexpr size_t kTokenBytesMax = 64;
inline constexpr int kWorldMax = 4096;

enum class Purpose : uint32_t { kMeet = 0, kControl = 1, kGroup = 2 };

// Where a rank can be reached: fixed fields, zero-terminated.
struct Place {
  char host[80] = {};       // boot id and network namespace: equal means one host
  char unix_name[48] = {};  // abstract name of its unix socket; "" when it has none
  char tcp[72] = {};        // "1.2.3.4:5"; "" when it doesn't listen
};

// The first bytes of every connection.
struct Hello {
  uint64_t magic = kHelloMagic;
  uint32_t version = kWireVersion;
  uint32_t world = 0;
  uint32_t rank = 0;
  uint32_t purpose = 0;
  uint64_t group_key = 0;   // kGroup: name and members, hashed
  uint32_t group_turn = 0;  // kGroup: how many groups of this key were made before
  uint32_t token_bytes = 0;
  char token[kTokenBytesMax] = {};
  Place place;  // kMeet: of the rank that connects
};
static_assert(sizeof(Place) == 200 && sizeof(Hello) == 304);

enum class Answer : uint32_t { kWelcome = 0, kToken = 1, kWorld = 2, kTaken = 3, kVersion = 4 };

// What comes back to kMeet and kControl; after a welcome to kMeet `world` Places follow.
struct AnswerFrame {
  uint32_t magic = kAnswerMagic;
  uint32_t answer = 0;
};

// Numbers are on the wire: never renumber.
enum class OpKind : uint8_t {
  kAllReduce = 0,
  kReduceScatter = 1,
  kAllGather = 2,
  kAllToAll = 3,
  kBroadcast = 4,
  kMessage = 5,
  kBarrier = 6,
};

// Before the payload of every operation, per peer and direction.
struct OpHeader {
  uint32_t magic = kHeaderMagic;
  uint8_t kind = 0;
  uint8_t reduce = 0;
  uint8_t dtype = 0;
  uint8_t name_bytes = 0;  // of the whole name, at most 255
  uint64_t sequence = 0;   // of collectives in the group, or of messages to this peer
  int64_t bytes = 0;       // payload of this stream
  int64_t count = 0;       // elements of the whole operation, where all members agree on it
  uint64_t name_hash = 0;  // FNV-1a of the whole name
  char name[24] = {};      // its first bytes
};
static_assert(sizeof(OpHeader) == 64);

enum class ControlKind : uint8_t { kGoodbye = 1, kFault = 2 };

inline constexpr size_t kControlTextMax = 480;

// A control frame: this, then `operation_bytes` and `reason_bytes` of text.
struct ControlHeader {
  uint32_t magic = kControlMagic;
  uint8_t kind = 0;
  uint8_t pad = 0;
  uint16_t code = 0;
  int32_t culprit = -1;
  uint16_t operation_bytes = 0;
  uint16_t reason_bytes = 0;
};
static_assert(sizeof(ControlHeader) == 16);
inline constexpr size_t kControlFrameMax = sizeof(ControlHeader) + 2 * kControlTextMax;

// What went wrong, as it is told to the others.
struct Fault {
  Code code = Code::kFailed;
  int culprit = -1;       // global rank; -1: nobody
  std::string operation;  // "all_reduce 'gradients/2' of group dp"
  std::string reason;     // "rank 3 closed its connection"
};

// Copies at most N − 1 bytes and ends with a zero.
template <size_t N>
void put_text(char (&field)[N], std::string_view text) {
  const size_t n = text.size() < N ? text.size() : N - 1;
  for (size_t i = 0; i < N; ++i) field[i] = i < n ? text[i] : '\0';
}
// The text up to its zero or the field's end.
template <size_t N>
std::string get_text(const char (&field)[N]) {
  size_t n = 0;
  while (n < N && field[n] != '\0') ++n;
  return std::string(field, n);
}

// kWelcome, or why the hello of a stranger is refused; compares the token in constant time.
Answer judge(const Hello& hello, const std::string& token, int world);
// "the tokens differ" and so on, for the one who was refused.
std::string answer_text(Answer answer);

const char* kind_name(OpKind kind);
uint64_t name_hash(std::string_view name);
// "all_gather 'params/0' (4,096 bytes f32, no. 3)"; bytes that mean nothing are shown as such.
std::string describe(const OpHeader& header);
// True when both headers speak of one operation.
bool is_same_operation(const OpHeader& a, const OpHeader& b);

// The bytes of a fault's or goodbye's frame.
std::string control_frame(ControlKind kind, const Fault& fault);
// Takes one frame off the front of `bytes`: 1 when it did, 0 when more bytes are needed, -1 when it
// is no frame.
int take_control_frame(std::string& bytes, ControlKind& kind, Fault& fault);

}  // namespace dsv3::comm
