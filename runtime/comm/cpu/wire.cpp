// The wire formats: building, checking, describing.
#include "runtime/comm/cpu/wire.h"

#include <algorithm>
#include <cstring>

#include "base/dtype.h"
#include "base/text.h"

namespace dsv3::comm {
namespace {

bool is_known(Code code) {
  return std::strcmp(code_name(code), "unknown") != 0;
}

// Text of a peer goes into our log and reports: no control characters.
std::string printable(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return out;
}

}  // namespace

Answer judge(const Hello& hello, const std::string& token, int world) {
  if (hello.magic != kHelloMagic || hello.version != kWireVersion) return Answer::kVersion;
  unsigned differing = hello.token_bytes == token.size() ? 0 : 1;
  for (size_t i = 0; i < kTokenBytesMax; ++i) {
    const char own = i < token.size() ? token[i] : '\0';
    differing |= static_cast<unsigned char>(own ^ hello.token[i]);
  }
  if (differing != 0) return Answer::kToken;
  if (hello.world != static_cast<uint32_t>(world) || hello.rank >= hello.world ||
      hello.purpose > static_cast<uint32_t>(Purpose::kGroup))
    return Answer::kWorld;
  return Answer::kWelcome;
}

std::string answer_text(Answer answer) {
  switch (answer) {
    case Answer::kWelcome:
      return "welcome";
    case Answer::kToken:
      return "the tokens differ: another attempt uses this rendezvous";
    case Answer::kWorld:
      return "the numbers of ranks differ";
    case Answer::kTaken:
      return "another process already has this rank's number";
    case Answer::kVersion:
      return "the protocol's versions differ";
  }
  return "it gave an unknown answer";
}

const char* kind_name(OpKind kind) {
  switch (kind) {
    case OpKind::kAllReduce:
      return "all_reduce";
    case OpKind::kReduceScatter:
      return "reduce_scatter";
    case OpKind::kAllGather:
      return "all_gather";
    case OpKind::kAllToAll:
      return "all_to_all";
    case OpKind::kBroadcast:
      return "broadcast";
    case OpKind::kMessage:
      return "send";
    case OpKind::kBarrier:
      return "barrier";
  }
  return "an unknown operation";
}

uint64_t name_hash(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

std::string describe(const OpHeader& header) {
  if (header.magic != kHeaderMagic) return "something that is no operation";
  const size_t shown = std::min<size_t>(header.name_bytes, sizeof(header.name));
  std::string text = kind_name(static_cast<OpKind>(header.kind));
  text += " '" + printable(std::string_view(header.name, shown)) +
          (header.name_bytes > shown ? "…'" : "'");
  const char* dtype = header.dtype <= static_cast<uint8_t>(DType::kF64)
                          ? dtype_name(static_cast<DType>(header.dtype))
                          : "of an unknown dtype";
  return text + " (" + with_commas(header.bytes) + " bytes " + dtype + " each, no. " +
         std::to_string(header.sequence) + ")";
}

bool is_same_operation(const OpHeader& a, const OpHeader& b) {
  return a.magic == b.magic && a.kind == b.kind && a.reduce == b.reduce && a.dtype == b.dtype &&
         a.sequence == b.sequence && a.bytes == b.bytes && a.count == b.count &&
         (a.name_hash == b.name_hash || a.kind == static_cast<uint8_t>(OpKind::kMessage));
}

std::string control_frame(ControlKind kind, const Fault& fault) {
  const std::string operation = fault.operation.substr(0, kControlTextMax);
  const std::string reason = fault.reason.substr(0, kControlTextMax);
  ControlHeader header;
  header.kind = static_cast<uint8_t>(kind);
  header.code = static_cast<uint16_t>(fault.code);
  header.culprit = fault.culprit;
  header.operation_bytes = static_cast<uint16_t>(operation.size());
  header.reason_bytes = static_cast<uint16_t>(reason.size());
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + operation + reason;
}

int take_control_frame(std::string& bytes, ControlKind& kind, Fault& fault) {
  ControlHeader header;
  if (bytes.size() < sizeof(header)) return 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kControlMagic || header.operation_bytes > kControlTextMax ||
      header.reason_bytes > kControlTextMax || header.culprit < -1 || header.culprit >= kWorldMax)
    return -1;
  kind = static_cast<ControlKind>(header.kind);
  if (kind != ControlKind::kGoodbye && kind != ControlKind::kFault) return -1;
  const size_t total = sizeof(header) + header.operation_bytes + header.reason_bytes;
  if (bytes.size() < total) return 0;
  const Code code = static_cast<Code>(header.code);
  fault.code = is_known(code) && code != Code::kOk ? code : Code::kFailed;
  fault.culprit = header.culprit;
  fault.operation =
      printable(std::string_view(bytes).substr(sizeof(header), header.operation_bytes));
  fault.reason = printable(
      std::string_view(bytes).substr(sizeof(header) + header.operation_bytes, header.reason_bytes));
  bytes.erase(0, total);
  return 1;
}

}  // namespace dsv3::comm
