// Fuzzes the messages between dsv3ctl, dsv3d, agents and ranks, and the rank link's stream.
//
// Law (frames.h): what decodes can be encoded and decodes again; what doesn't is a Status.
#include <string>

#include "base/check.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/frames.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {
namespace {

template <typename Message>
Verdict try_frame(std::string_view bytes) {
  Message message;
  if (!protocol::decode(bytes, &message).ok()) return Verdict::kRefused;
  const auto frame = protocol::encode(message);
  DSV3_CHECK(frame.ok(), frame.status().to_string());
  Message again;
  DSV3_CHECK(protocol::decode(*frame, &again).ok());
  return Verdict::kAccepted;
}

Verdict try_envelope(std::string_view bytes) {
  wire::Envelope message;
  if (protocol::decode(bytes, &message).ok() && message.has_error())
    DSV3_CHECK(!protocol::from_error(message.error()).ok());
  return try_frame<wire::Envelope>(bytes);
}

// Fed in two pieces, as a socket would.
Verdict try_stream(std::string_view bytes) {
  protocol::FrameReader reader;
  bool any = false;
  for (const std::string_view piece :
       {bytes.substr(0, bytes.size() / 2), bytes.substr(bytes.size() / 2)}) {
    reader.feed(piece);
    while (true) {
      const auto frame = reader.next();
      if (!frame.ok()) return Verdict::kRefused;
      if (!frame->has_value()) break;
      if (try_frame<wire::RankFrame>(**frame) == Verdict::kRefused) return Verdict::kRefused;
      any = true;
    }
  }
  return any && reader.at_boundary() ? Verdict::kAccepted : Verdict::kRefused;
}

}  // namespace

Verdict try_wire_frames(std::string_view bytes) {
  if (bytes.empty()) return Verdict::kRefused;
  const std::string_view rest = bytes.substr(1);
  switch (bytes[0] & 3) {
    case 0:
      return try_envelope(rest);
    case 1:
      return try_frame<wire::AgentFrame>(rest);
    case 2:
      return try_frame<wire::RankFrame>(rest);
    default:
      return try_stream(rest);
  }
}

}  // namespace dsv3::fuzz
