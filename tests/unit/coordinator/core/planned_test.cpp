// job_planned: what was chosen for a job and why is on record from its submission on, and outlives
// whatever happens to the job.
#include "tests/unit/coordinator/core/world.h"

namespace dsv3::core {
namespace {

TEST(JobPlanned, FollowsTheSubmissionAndIsKept) {
  World w;
  w.give(SubmitInput{submission(), "demo: it runs on the CPUs."});
  ASSERT_GE(w.log.size(), 2u);
  EXPECT_EQ(w.log[0].type, EventType::kJobSubmitted);
  EXPECT_EQ(w.log[1].type, EventType::kJobPlanned);
  EXPECT_EQ(w.log[1].job, "demo-1");
  EXPECT_EQ(w.job("demo-1").why, "demo: it runs on the CPUs.");
  EXPECT_NE(w.job("demo-1").reason, w.job("demo-1").why) << "the state's reason is its own";
  w.give(CancelInput{"demo-1", "enough"});
  EXPECT_EQ(w.job("demo-1").why, "demo: it runs on the CPUs.");
  EXPECT_EQ(w.replayed(), w.state);
}

TEST(JobPlanned, NothingToSayIsNoEvent) {
  World w;
  w.give(SubmitInput{submission()});
  EXPECT_FALSE(w.wrote(EventType::kJobPlanned));
  EXPECT_EQ(w.job("demo-1").why, "");
}

TEST(JobPlanned, ARepeatedRequestIsTheSameJobAndSaysNothingAgain) {
  World w;
  w.give(SubmitInput{submission(1, 1, "key"), "first"});
  w.give(SubmitInput{submission(1, 1, "key"), "second"});
  EXPECT_FALSE(w.last.created);
  EXPECT_TRUE(w.last.events.empty());
  EXPECT_EQ(w.job("demo-1").why, "first");
}

TEST(JobPlanned, ALongSentenceIsCut) {
  World w;
  w.give(SubmitInput{submission(), std::string(100'000, 'x')});
  EXPECT_EQ(w.job("demo-1").why.size(), 4096u);
}

// A log of an earlier release has no such event: it replays, and nothing was said.
TEST(JobPlanned, OnlyAQueuedJobCanBePlanned) {
  World w;
  w.give(SubmitInput{submission()});  // LAUNCHING at once: its node is free
  Event event;
  event.type = EventType::kJobPlanned;
  event.seq = w.state.last_seq + 1;
  event.job = "demo-1";
  event.reason = "late";
  EXPECT_EQ(apply(w.state, event).code(), Code::kConflict);
  EXPECT_EQ(w.job("demo-1").why, "");
}

}  // namespace
}  // namespace dsv3::core
