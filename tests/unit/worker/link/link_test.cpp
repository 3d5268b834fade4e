// Channel and Reporter over a real socketpair: framing, hostile bytes, a slow or dead other end.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "coordinator/protocol/dsv3.pb.h"
#include "worker/link/channel.h"
#include "worker/link/reporter.h"

namespace dsv3::link {
namespace {

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

std::string rank_frame(int64_t step) {
  wire::RankFrame frame;
  frame.mutable_message()->mutable_step()->set_step(step);
  return *protocol::encode(frame);
}

struct Pair {
  int raw;  // the test's end: bytes as they come
  Channel channel;
};

Pair make_pair() {
  const auto fds = make_socketpair();
  return {fds->first, std::move(Channel::adopt(fds->second)).value()};
}

void write_all(int fd, const std::string& bytes) {
  ASSERT_EQ(::write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
}

std::vector<int64_t> receive_steps(Channel& channel, Status* status) {
  std::vector<int64_t> steps;
  *status = channel.receive([&](const std::string& bytes) -> Status {
    wire::RankFrame frame;
    DSV3_RETURN_IF_ERROR(protocol::decode(bytes, &frame));
    steps.push_back(frame.message().step().step());
    return {};
  });
  return steps;
}

TEST(Channel, FramesArriveWholeHoweverTheBytesAreCut) {
  Pair pair = make_pair();
  std::string bytes;
  for (int64_t step = 1; step <= 3; ++step) bytes += protocol::with_length(rank_frame(step));
  std::vector<int64_t> seen;
  for (const char byte : bytes) {
    write_all(pair.raw, std::string(1, byte));
    Status status;
    for (const int64_t step : receive_steps(pair.channel, &status)) seen.push_back(step);
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3}));
  ::close(pair.raw);
  Status status;
  receive_steps(pair.channel, &status);
  EXPECT_TRUE(status.ok());
  EXPECT_FALSE(pair.channel.open());
}

TEST(Channel, HostileStreamsAreClosed) {
  const std::string too_long("\xff\xff\xff\xff", 4);
  const std::string empty_frame(4, '\0');
  const std::string garbage = protocol::with_length("\xff\xff garbage");
  for (const std::string& bytes : {too_long, empty_frame, garbage}) {
    Pair pair = make_pair();
    write_all(pair.raw, protocol::with_length(rank_frame(7)) + bytes);
    Status status;
    EXPECT_EQ(receive_steps(pair.channel, &status), std::vector<int64_t>{7});
    EXPECT_EQ(status.code(), Code::kInvalid);
    EXPECT_FALSE(pair.channel.open());
    ::close(pair.raw);
  }
}

TEST(Channel, TruncatedStreamIsAnError) {
  Pair pair = make_pair();
  const std::string bytes = protocol::with_length(rank_frame(1));
  write_all(pair.raw, bytes.substr(0, bytes.size() - 1));
  ::close(pair.raw);
  Status status;
  EXPECT_TRUE(receive_steps(pair.channel, &status).empty());
  EXPECT_EQ(status.code(), Code::kInvalid);
}

TEST(Channel, SendingToAFullSocketKeepsTheRest) {
  Pair pair = make_pair();
  const std::string frame(1 << 20, 'x');
  for (int i = 0; i < 4; ++i) pair.channel.send(frame);
  EXPECT_GT(pair.channel.pending_bytes(), 0);
  std::string got(4 * (frame.size() + 4), '\0');
  size_t taken = 0;
  while (taken < got.size()) {
    const ssize_t n = ::read(pair.raw, got.data() + taken, got.size() - taken);
    ASSERT_GT(n, 0);
    taken += static_cast<size_t>(n);
    pair.channel.flush();
  }
  EXPECT_EQ(pair.channel.pending_bytes(), 0);
  EXPECT_EQ(got.substr(4, frame.size()), frame);
  ::close(pair.raw);
}

TEST(Channel, SendingToNobodyCloses) {
  Pair pair = make_pair();
  ::close(pair.raw);
  pair.channel.send("x");
  EXPECT_FALSE(pair.channel.open());
  pair.channel.send("y");  // harmless
}

TEST(Channel, RefusesWhatIsNoSocket) {
  EXPECT_EQ(Channel::adopt(99).status().code(), Code::kInvalid);
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  EXPECT_EQ(Channel::adopt(fds[0]).status().code(), Code::kInvalid);
  ::close(fds[0]);
  ::close(fds[1]);
}

struct Talk {
  Channel agent;
  std::unique_ptr<Reporter> reporter;
  std::vector<wire::RankMessage> seen;

  explicit Talk(int64_t idle_ms = 60'000) {
    const auto fds = make_socketpair();
    agent = std::move(Channel::adopt(fds->first)).value();
    reporter = std::move(Reporter::start(fds->second, idle_ms)).value();
  }
  void read() {
    const Status status = agent.receive([this](const std::string& bytes) -> Status {
      wire::RankFrame frame;
      DSV3_RETURN_IF_ERROR(protocol::decode(bytes, &frame));
      seen.push_back(frame.message());
      return {};
    });
    ASSERT_TRUE(status.ok()) << status.to_string();
  }
  void order(const wire::AgentFrame& frame) { agent.send(*protocol::encode(frame)); }
};

wire::RankMessage step_message(int64_t step, size_t padding = 0) {
  wire::RankMessage message;
  if (padding > 0) {
    message.mutable_experts()->set_step(step);
    wire::LayerCounts* layer = message.mutable_experts()->add_layers();
    for (size_t i = 0; i < padding; ++i) layer->add_tokens(~uint64_t{0});
  } else {
    message.mutable_step()->set_step(step);
  }
  return message;
}

TEST(Reporter, CarriesReportsInOrderAndDrains) {
  Talk talk;
  for (int64_t step = 1; step <= 100; ++step) talk.reporter->send(step_message(step));
  EXPECT_TRUE(talk.reporter->drain(20'000));
  talk.read();
  ASSERT_EQ(talk.seen.size(), 100u);
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(talk.seen[static_cast<size_t>(i)].step().step(), i + 1);
    EXPECT_GT(talk.seen[static_cast<size_t>(i)].time_unix_ns(), 0);
  }
}

TEST(Reporter, SlowAgentBlocksNothingAndLosesNothing) {
  Talk talk;
  // 400 reports of about 100 KB: far more than the socket takes.
  for (int64_t step = 1; step <= 400; ++step) talk.reporter->send(step_message(step, 10'000));
  EXPECT_FALSE(talk.reporter->drain(1));
  // Notes are what is left out above the soft limit.
  wire::RankMessage note;
  note.mutable_note()->set_text("may be missed");
  talk.reporter->send(note);
  ASSERT_TRUE(eventually([&] {
    talk.read();
    return talk.seen.size() >= 400;
  }));
  EXPECT_TRUE(talk.reporter->drain(20'000));
  EXPECT_EQ(talk.reporter->dropped(), 1);
  for (int64_t i = 0; i < 400; ++i)
    EXPECT_EQ(talk.seen[static_cast<size_t>(i)].experts().step(), i + 1);
}

TEST(Reporter, BringsBackWhatTheAgentAsks) {
  Talk talk;
  EXPECT_FALSE(talk.reporter->stop_requested());
  wire::AgentFrame frame;
  frame.mutable_checkpoint_now();
  talk.order(frame);
  EXPECT_TRUE(eventually([&] { return talk.reporter->take_checkpoint_request(); }));
  EXPECT_FALSE(talk.reporter->take_checkpoint_request());  // once
  frame.mutable_stop()->set_checkpoint(true);
  talk.order(frame);
  EXPECT_TRUE(eventually([&] { return talk.reporter->stop_requested(); }));
  EXPECT_FALSE(talk.reporter->stop_without_checkpoint());
}

TEST(Reporter, AgentThatDiesEndsReportingOnly) {
  Talk talk;
  talk.agent.close();
  EXPECT_TRUE(eventually([&] { return talk.reporter->agent_gone(); }));
  talk.reporter->send(step_message(1));
  EXPECT_FALSE(talk.reporter->stop_requested());
}

TEST(Reporter, MalformedOrdersEndTheLinkNotTheRank) {
  Talk talk;
  talk.agent.send("\xff nonsense");
  EXPECT_TRUE(eventually([&] { return talk.reporter->agent_gone(); }));
  EXPECT_FALSE(talk.reporter->stop_requested());
}

TEST(Reporter, SaysWhatItIsDoingWhenIdle) {
  Talk talk(1);
  talk.reporter->set_progress(12, "loading data");
  EXPECT_TRUE(eventually([&] {
    talk.read();
    return !talk.seen.empty() && talk.seen.back().progress().operation() == "loading data";
  }));
  EXPECT_EQ(talk.seen.back().progress().step(), 12);
}

}  // namespace
}  // namespace dsv3::link
