// Frames that can't be believed: truncated, oversized, of another version, empty. The oracle is the
// byte layout of PROTOCOL.md.
#include "coordinator/protocol/frames.h"

#include <gtest/gtest.h>

#include <string>

#include "base/rng.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/protocol/states.h"

namespace dsv3::protocol {
namespace {

wire::Envelope submit_message() {
  wire::Envelope message;
  message.set_request_id(7);
  message.mutable_submit()->set_name("demo");
  message.mutable_submit()->set_spec_yaml("model: {}\n");
  message.mutable_submit()->add_nodes()->add_ranks(3);
  return message;
}

TEST(Envelope, SurvivesEncodingAndDecoding) {
  const Result<std::string> frame = encode(submit_message());
  ASSERT_TRUE(frame.ok());
  wire::Envelope back;
  ASSERT_TRUE(decode(*frame, &back).ok());
  EXPECT_EQ(back.protocol_version(), kProtocolVersion);
  EXPECT_EQ(back.request_id(), 7u);
  EXPECT_EQ(back.submit().name(), "demo");
  EXPECT_EQ(back.submit().nodes(0).ranks(0), 3u);
}

TEST(Envelope, WithoutABodyIsRefusedBothWays) {
  EXPECT_EQ(encode(wire::Envelope()).status().code(), Code::kInvalid);
  // Field 1 (version), varint, 1: a valid envelope but for its body.
  wire::Envelope message;
  const Status status = decode(std::string("\x08\x01", 2), &message);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("body"), std::string::npos);
}

TEST(Envelope, OfAnotherVersionIsRefusedWithBothNumbers) {
  std::string frame = *encode(submit_message());
  ASSERT_EQ(frame[0], '\x08');  // field 1 comes first
  frame[1] = 9;
  wire::Envelope message;
  const Status status = decode(frame, &message);
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find('9'), std::string::npos);
  EXPECT_NE(status.message().find('1'), std::string::npos);
}

TEST(Envelope, TruncatedAnywhereIsRefusedOrIncomplete) {
  const std::string frame = *encode(submit_message());
  wire::Envelope message;
  for (size_t bytes = 0; bytes < frame.size(); ++bytes) {
    const Status status = decode(std::string_view(frame).substr(0, bytes), &message);
    // A prefix that ends between two fields is a message with fewer fields: still well formed, or
    // without a body.
    if (status.ok()) {
      EXPECT_NE(message.SerializeAsString(), frame) << bytes;
    }
  }
  EXPECT_FALSE(decode(std::string_view(frame).substr(0, frame.size() - 1), &message).ok());
}

TEST(Envelope, OfRandomBytesNeverCrashes) {
  const CounterRng rng(11, name_key("frames"));
  wire::Envelope message;
  for (uint64_t i = 0; i < 2'000; ++i) {
    std::string bytes(rng.below(i, 64), '\0');
    for (size_t k = 0; k < bytes.size(); ++k) bytes[k] = static_cast<char>(rng.bits(i * 64 + k));
    (void)decode(bytes, &message);
  }
}

TEST(Envelope, LargerThanTheLimitIsRefusedBothWays) {
  wire::Envelope message = submit_message();
  message.mutable_submit()->set_spec_yaml(std::string(static_cast<size_t>(kFrameMaxBytes), 'x'));
  EXPECT_EQ(encode(message).status().code(), Code::kInvalid);
  wire::Envelope back;
  EXPECT_EQ(decode(message.SerializeAsString(), &back).code(), Code::kInvalid);
}

wire::RankFrame step_frame(int64_t step) {
  wire::RankFrame frame;
  frame.mutable_message()->mutable_step()->set_step(step);
  return frame;
}

TEST(FrameReader, CutsAStreamThatArrivesByteByByte) {
  std::string stream;
  for (int64_t step = 1; step <= 3; ++step) stream += with_length(*encode(step_frame(step)));
  FrameReader reader;
  int64_t expected = 1;
  for (const char byte : stream) {
    reader.feed(std::string_view(&byte, 1));
    const auto frame = reader.next();
    ASSERT_TRUE(frame.ok());
    if (!frame->has_value()) continue;
    wire::RankFrame message;
    ASSERT_TRUE(decode(**frame, &message).ok());
    EXPECT_EQ(message.message().step().step(), expected++);
  }
  EXPECT_EQ(expected, 4);
  EXPECT_TRUE(reader.at_boundary());
}

// The bytes of StepMetrics by hand: 0x08 and 0x70 are the varint fields 1 and 14.
TEST(StepMetrics, TellsWhatWasDroppedFromWhatIsUnknown) {
  const std::string old_step("\x08\x03", 2);
  const std::string frame_head("\x08\x01\x12", 3);
  const auto frame_of = [&](const std::string& step) {
    const auto sized = [](const std::string& body) {
      return std::string(1, static_cast<char>(body.size())) + body;
    };
    return frame_head + sized("\x5a" + sized(step));  // RankMessage.step = 11
  };
  wire::RankFrame read;
  ASSERT_TRUE(decode(frame_of(old_step), &read).ok());
  EXPECT_EQ(read.message().step().step(), 3);
  EXPECT_FALSE(read.message().step().has_dropped()) << "a rank that doesn't know the field";
  for (const int64_t dropped : {0, 300}) {
    const std::string value = dropped == 0 ? std::string(1, '\0') : std::string("\xac\x02");
    const std::string frame = frame_of(old_step + "\x70" + value);
    ASSERT_TRUE(decode(frame, &read).ok());
    EXPECT_TRUE(read.message().step().has_dropped());
    EXPECT_EQ(read.message().step().dropped(), dropped);
    EXPECT_EQ(*encode(std::move(read)), frame);
    read = step_frame(3);
    read.mutable_message()->mutable_step()->set_dropped(dropped);
    EXPECT_EQ(*encode(read), frame);
  }
}

TEST(FrameReader, TellsATruncatedStream) {
  const std::string stream = with_length(*encode(step_frame(1)));
  FrameReader reader;
  reader.feed(std::string_view(stream).substr(0, stream.size() - 1));
  ASSERT_TRUE(reader.next().ok());
  EXPECT_FALSE(reader.at_boundary());
}

TEST(FrameReader, RefusesLengthsThatCannotBe) {
  for (const std::string& length :
       {std::string(4, '\0'), std::string("\x01\x00\x00\x01", 4), std::string(4, '\xFF')}) {
    FrameReader reader;
    reader.feed(length);
    EXPECT_EQ(reader.next().status().code(), Code::kInvalid);
    reader.feed("more");
    EXPECT_FALSE(reader.next().ok());
  }
}

TEST(FrameReader, LengthIsFourLittleEndianBytes) {
  EXPECT_EQ(with_length(std::string(258, 'x')).substr(0, 4), std::string("\x02\x01\x00\x00", 4));
}

TEST(Error, CarriesAllPartsOfAStatus) {
  wire::Envelope reply;
  make_error_reply(5, Status(Code::kDoesNotFit, "too big", "use fewer", "a.yaml:3:1"), &reply);
  EXPECT_EQ(reply.request_id(), 5u);
  const Status back = from_error(reply.error());
  EXPECT_EQ(back.code(), Code::kDoesNotFit);
  EXPECT_EQ(back.message(), "too big");
  EXPECT_EQ(back.hint(), "use fewer");
  EXPECT_EQ(back.where(), "a.yaml:3:1");
}

TEST(Error, OfAnUnknownCodeIsAFailure) {
  wire::Error error;
  for (const int code : {0, 99, -1}) {
    error.set_code(code);
    EXPECT_EQ(from_error(error).code(), Code::kFailed);
  }
}

TEST(JobState, NamesAndNumbersGoBothWays) {
  for (int number = 1; number <= 9; ++number) {
    const auto state = static_cast<JobState>(number);
    EXPECT_EQ(job_state_from_name(job_state_name(state)), state);
  }
  EXPECT_EQ(job_state_name(JobState::kQueued), "QUEUED");
  EXPECT_FALSE(job_state_from_name("PENDING").has_value());
}

}  // namespace
}  // namespace dsv3::protocol
