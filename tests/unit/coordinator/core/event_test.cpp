// Every event of the dictionary, written and read back, and payloads that can't be read.
#include "coordinator/core/event.h"

#include <gtest/gtest.h>

namespace dsv3::core {
namespace {

// Every field set; only the listed ones survive.
Event full_event(EventType type) {
  Event e;
  e.seq = 41;
  e.time_ns = 1'700'000'000'123'456'789;
  e.type = type;
  e.job = "demo-1";
  e.attempt = 2;
  e.node = "n1";
  e.host = "host.example";
  e.reason = "because \"of\" ü\n";
  e.operation = "all_reduce";
  e.path = "/ckpt/step-5";
  e.instance = "ab-1";
  e.rank = 7;
  e.code = 14;
  e.signal = 9;
  e.pid = 4711;
  e.step = int64_t{1} << 53;
  e.bytes = (int64_t{1} << 62) + 1;
  e.seconds = 0.1;
  e.not_before_ns = 5;
  e.placement = {{"n1", {0, 1}}, {"n2", {2}}};
  e.devices = {{"cpu", "Xeon", "", 123}, {"cuda", "H200", "GPU-1", int64_t{150} << 30}};
  e.submission = Submission{"Demo", "a: 1\n",           "{}", "local", "key", "{\"tp\":1}", "/home",
                            100,    {{"n1", {0, 1, 2}}}};
  return e;
}

Result<Event> again(const Event& e, const std::string& payload) {
  return parse_event(e.seq, e.time_ns, e.job, e.attempt, event_name(e.type), payload);
}

TEST(Event, OfEveryTypeReadsBackAsItWasWritten) {
  for (const EventEntry& entry : event_dictionary()) {
    const Event written = full_event(entry.type);
    const std::string payload = payload_json(written);
    const Result<Event> read = again(written, payload);
    ASSERT_TRUE(read.ok()) << entry.name << ": " << read.status().message();
    // What is read is written the same again, and a second round changes nothing.
    EXPECT_EQ(payload_json(*read), payload);
    EXPECT_EQ(*again(*read, payload_json(*read)), *read);
    if ((entry.fields & kFieldSubmission) != 0) {
      EXPECT_EQ(read->submission, written.submission);
    }
    if ((entry.fields & kFieldDevices) != 0) {
      EXPECT_EQ(read->devices, written.devices);
    }
    if ((entry.fields & kFieldPlacement) != 0) {
      EXPECT_EQ(read->placement, written.placement);
    }
    if ((entry.fields & kFieldBytes) != 0) {
      EXPECT_EQ(read->bytes, written.bytes);
    }
    if ((entry.fields & kFieldReason) != 0) {
      EXPECT_EQ(read->reason, written.reason);
    }
  }
}

TEST(Event, WithAFieldMissingOrOfAnotherTypeNamesIt) {
  const Event e = full_event(EventType::kRankStarted);
  for (const char* payload : {R"({"node":"n1","rank":7})", R"({"node":"n1","rank":7,"pid":"x"})",
                              R"({"node":"n1","rank":7,"pid":1.5})"}) {
    const Result<Event> read = again(e, payload);
    EXPECT_EQ(read.status().code(), Code::kInvalid);
    EXPECT_NE(read.status().message().find("pid"), std::string::npos) << read.status().message();
  }
  EXPECT_FALSE(again(e, R"({"node":"n1","rank":-1,"pid":1})").ok());
  EXPECT_FALSE(again(e, R"({"node":"n1","rank":4294967296,"pid":1})").ok());
  EXPECT_FALSE(again(e, "[]").ok());
  EXPECT_FALSE(again(e, "{").ok());
}

TEST(Event, OfAnUnknownTypeIsRefused) {
  EXPECT_EQ(parse_event(1, 0, "", 0, "job_teleported", "{}").status().code(), Code::kInvalid);
}

TEST(Event, WithBytesThatAreNotUtf8IsStillWritten) {
  Event e = full_event(EventType::kNote);
  e.reason = "\xFF\xFE";
  EXPECT_TRUE(again(e, payload_json(e)).ok());
}

}  // namespace
}  // namespace dsv3::core
