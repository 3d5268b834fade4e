// Encoding, decoding and framing; see frames.h.
#include "coordinator/protocol/frames.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::protocol {
namespace {

constexpr size_t kLengthBytes = 4;
// A consumed prefix of the stream is dropped when it has grown to this.
constexpr size_t kCompactBytes = size_t{1} << 16;

bool has_body(const wire::Envelope& message) {
  return message.body_case() != wire::Envelope::BODY_NOT_SET;
}
bool has_body(const wire::AgentFrame& message) {
  return message.body_case() != wire::AgentFrame::BODY_NOT_SET;
}
bool has_body(const wire::RankFrame& message) {
  return message.message().body_case() != wire::RankMessage::BODY_NOT_SET;
}

Status too_large(size_t bytes) {
  return Status(Code::kInvalid,
                fmt::format("a message of {} bytes exceeds the limit of {}", bytes, kFrameMaxBytes),
                "ask for fewer rows or a smaller range");
}

template <typename Message>
Result<std::string> encode_any(const Message& message) {
  if (!has_body(message)) return Status(Code::kInvalid, "a message without a body can't be sent");
  const size_t bytes = message.ByteSizeLong();
  if (bytes > static_cast<size_t>(kFrameMaxBytes)) return too_large(bytes);
  std::string frame;
  frame.reserve(bytes + 8);
  if (message.protocol_version() == kProtocolVersion) {
    message.SerializeToString(&frame);
  } else {
    Message versioned = message;
    versioned.set_protocol_version(kProtocolVersion);
    versioned.SerializeToString(&frame);
  }
  if (frame.size() > static_cast<size_t>(kFrameMaxBytes)) return too_large(frame.size());
  return frame;
}

template <typename Message>
Status decode_any(std::string_view bytes, Message* message) {
  if (bytes.size() > static_cast<size_t>(kFrameMaxBytes)) return too_large(bytes.size());
  message->Clear();
  if (!message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Status(Code::kInvalid,
                  fmt::format("{} bytes that are not a message of this protocol", bytes.size()));
  }
  if (message->protocol_version() != kProtocolVersion) {
    return Status(Code::kInvalid,
                  fmt::format("the message has protocol version {}, this program speaks version {}",
                              message->protocol_version(), kProtocolVersion),
                  "use programs of one release");
  }
  if (!has_body(*message))
    return Status(Code::kInvalid, "a message without a body, or with one unknown to this release");
  return {};
}

}  // namespace

Result<std::string> encode(const wire::Envelope& message) {
  return encode_any(message);
}
Result<std::string> encode(const wire::RankFrame& message) {
  return encode_any(message);
}
Result<std::string> encode(const wire::AgentFrame& message) {
  return encode_any(message);
}
Status decode(std::string_view bytes, wire::Envelope* message) {
  return decode_any(bytes, message);
}
Status decode(std::string_view bytes, wire::RankFrame* message) {
  return decode_any(bytes, message);
}
Status decode(std::string_view bytes, wire::AgentFrame* message) {
  return decode_any(bytes, message);
}

std::string with_length(std::string_view frame) {
  DSV3_CHECK(frame.size() <= static_cast<size_t>(kFrameMaxBytes));
  const uint32_t length = static_cast<uint32_t>(frame.size());
  std::string bytes;
  bytes.reserve(kLengthBytes + frame.size());
  for (size_t i = 0; i < kLengthBytes; ++i)
    bytes.push_back(static_cast<char>((length >> (8 * i)) & 0xFFu));
  bytes.append(frame);
  return bytes;
}

Result<std::optional<std::string>> FrameReader::next() {
  if (buffer_.size() - taken_ < kLengthBytes) return std::optional<std::string>{};
  uint32_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint32_t>(static_cast<unsigned char>(buffer_[taken_ + i])) << (8 * i);
  }
  if (length == 0 || length > static_cast<uint32_t>(kFrameMaxBytes)) {
    return Status(Code::kInvalid, fmt::format("a frame announces {} bytes; 1 to {} are possible",
                                              length, kFrameMaxBytes));
  }
  if (buffer_.size() - taken_ - kLengthBytes < length) return std::optional<std::string>{};
  std::optional<std::string> frame = buffer_.substr(taken_ + kLengthBytes, length);
  taken_ += kLengthBytes + length;
  if (taken_ == buffer_.size() || taken_ > kCompactBytes) {
    buffer_.erase(0, taken_);
    taken_ = 0;
  }
  return frame;
}

void to_error(const Status& status, wire::Error* error) {
  error->set_code(static_cast<int32_t>(status.code()));
  error->set_message(status.message());
  error->set_hint(status.hint());
  error->set_where(status.where());
}

Status from_error(const wire::Error& error) {
  constexpr std::array kKnown = {Code::kFailed,
                                 Code::kInvalid,
                                 Code::kNoCoordinator,
                                 Code::kNotAuthorised,
                                 Code::kNotFound,
                                 Code::kDoesNotFit,
                                 Code::kConflict,
                                 Code::kDevice,
                                 Code::kPeerLost,
                                 Code::kCollectiveTimeout,
                                 Code::kOutOfMemory,
                                 Code::kLossNotFinite,
                                 Code::kCheckpointUnusable,
                                 Code::kTemporary,
                                 Code::kNeverRestart,
                                 Code::kTimeout,
                                 Code::kInterrupted,
                                 Code::kTerminated};
  const auto found = std::find_if(kKnown.begin(), kKnown.end(), [&](Code code) {
    return static_cast<int32_t>(code) == error.code();
  });
  const Code code = found == kKnown.end() ? Code::kFailed : *found;
  return Status(code, error.message(), error.hint(), error.where());
}

void make_error_reply(uint64_t request_id, const Status& status, wire::Envelope* reply) {
  DSV3_CHECK(!status.ok());
  reply->Clear();
  reply->set_request_id(request_id);
  to_error(status, reply->mutable_error());
}

}  // namespace dsv3::protocol
