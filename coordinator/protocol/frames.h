// Frames: the bytes of one message, and the checks that every receiver makes before it believes
// them.
//
// Law: nothing from outside is used before it passed here: its size is within the limit, its
// protobuf parses, its version is ours, and its body is set. What does not pass is a Status that
// says which check failed; it never aborts the process. Full document: PROTOCOL.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "coordinator/protocol/wire_fwd.h"

namespace dsv3::protocol {

inline constexpr uint32_t kProtocolVersion = 1;
// Of one Envelope on ZeroMQ (ZMQ_MAXMSGSIZE) and of one frame on a rank's socketpair, without its
// length.
inline constexpr int64_t kFrameMaxBytes = int64_t{16} << 20;
inline constexpr uint32_t kFollowWaitMaxMs = 30'000;
inline constexpr uint32_t kRowsDefault = 1'000;
inline constexpr uint32_t kRowsMax = 10'000;
inline constexpr uint32_t kLogChunkMaxBytes = 1u << 20;
inline constexpr uint32_t kReportsPerMessageMax = 1'000;

// Serialises with the version filled in; kInvalid when the message has no body or is larger than
// kFrameMaxBytes.
Result<std::string> encode(const wire::Envelope& message);
Result<std::string> encode(const wire::RankFrame& message);
Result<std::string> encode(const wire::AgentFrame& message);

// Parses and checks; kInvalid names the failed check (size, not a protobuf message, version, no
// body).
Status decode(std::string_view bytes, wire::Envelope* message);
Status decode(std::string_view bytes, wire::RankFrame* message);
Status decode(std::string_view bytes, wire::AgentFrame* message);

// The 4-byte little-endian length and the frame, as written to a rank's socketpair.
std::string with_length(std::string_view frame);

// Cuts a byte stream into frames. Not thread-safe; owns what was fed and not yet taken.
class FrameReader {
 public:
  // Appends received bytes.
  void feed(std::string_view bytes) { buffer_.append(bytes); }
  // The next whole frame, nullopt when more bytes are needed, kInvalid when the announced length is
  // 0 or above kFrameMaxBytes: the stream can't be trusted after that, and every later call says
  // the same.
  Result<std::optional<std::string>> next();
  // True when no partial frame is waiting (a stream that ends elsewhere was truncated).
  bool at_boundary() const { return taken_ == buffer_.size(); }

 private:
  std::string buffer_;
  size_t taken_ = 0;
};

// Status ⇄ Error. An unknown code on the wire becomes kFailed.
void to_error(const Status& status, wire::Error* error);
Status from_error(const wire::Error& error);
// A reply with an error body for the request with this id.
void make_error_reply(uint64_t request_id, const Status& status, wire::Envelope* reply);

}  // namespace dsv3::protocol
