// What a rank prints and reports: lines, the memory join, the observer over a real link, the
// command line.
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "worker/rank/rank_observer.h"
#include "worker/rank/step_line.h"
#include "worker/rank/train_options.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

train::TrainStart demo_start() {
  train::TrainStart start;
  start.max_steps = 200;
  start.params_total = 15'732'480;
  start.device = "cpu (2 threads)";
  start.compute_dtype = "f32 (bf16 was asked for)";
  start.flops_per_token = 6e7;
  start.peak_flops_per_s = 2e11;
  start.unigram_entropy = 6.71;
  return start;
}

train::StepReport demo_step() {
  train::StepReport report;
  report.step = 120;
  report.loss = 4.56781;
  report.aux_loss = 0.00012;
  report.grad_norm = 0.834;
  report.lr = 1.2e-3;
  report.tokens = 4096;
  report.step_s = 1.0;
  report.tokens_per_s = 10345.6;
  report.mfu = 0.412;
  report.memory_bytes = int64_t{512} << 20;
  return report;
}

TEST(StepLines, SayEverythingOnOneLine) {
  StepLines lines;
  (void)lines.start(demo_start());
  EXPECT_EQ(lines.step(demo_step()),
            "step 120/200 loss 4.5678 aux 0.0001 gnorm 0.83 lr 1.2e-03 10,345 tok/s "
            "mfu 41.2% (of measured f32 GEMM peak, causal) mem 512.0 MiB eta 1m 20s");
}

TEST(StepLines, LeaveOutWhatIsUnknownOrOver) {
  StepLines lines;
  train::TrainStart start = demo_start();
  start.max_steps = 120;
  (void)lines.start(start);
  train::StepReport report = demo_step();
  report.mfu = 0;
  const std::string line = lines.step(report);
  EXPECT_EQ(line.find("mfu"), std::string::npos);
  EXPECT_EQ(line.find("eta"), std::string::npos);
}

TEST(StepLines, SayWhatACapacityDropped) {
  StepLines lines;
  (void)lines.start(demo_start());
  train::StepReport report = demo_step();
  report.dropped = 12'345;
  EXPECT_NE(lines.step(report).find(" aux 0.0001 dropped 12,345 gnorm "), std::string::npos)
      << lines.step(report);
}

TEST(StepLines, BannerAndValidationNameTheirReference) {
  StepLines lines;
  const std::string banner = lines.start(demo_start());
  for (const char* part : {"cpu (2 threads)", "steps 1 to 200", "200 GFLOP/s", "6.7100"}) {
    EXPECT_NE(banner.find(part), std::string::npos) << part << " in " << banner;
  }
  train::ValidationReport report;
  report.step = 100;
  report.loss = 4.5;
  report.tokens = 65536;
  EXPECT_EQ(lines.validation(report),
            "validation at step 100 loss 4.5000 over 65,536 tokens (unigram entropy 6.7100)");
}

TEST(MemoryReport, JoinsPredictedAndMeasuredByTheirFirstPart) {
  const auto lines =
      join_memory({{"weights", 100}, {"activations", 50}, {"runtime", 7}},
                  {{"weights", 90}, {"activations/q", 20}, {"activations/k", 21}, {"logits", 3}});
  EXPECT_EQ(
      lines,
      (std::vector<MemoryLine>{
          {"weights", 100, 90}, {"activations", 50, 41}, {"runtime", 7, 0}, {"logits", 0, 3}}));
}

TEST(MemoryReport, TransientIsWhatTheOthersLeaveOfThePeak) {
  const auto lines =
      join_memory({}, {{"weights", 90}, {"transient/a", 20}, {"transient/b", 21}}, 115);
  EXPECT_EQ(lines, (std::vector<MemoryLine>{{"weights", 0, 90}, {"transient", 0, 25}}));
}

struct Observed {
  link::Channel agent;
  std::unique_ptr<link::Reporter> reporter;
  std::vector<wire::RankMessage> seen;

  Observed() {
    const auto fds = link::make_socketpair();
    agent = std::move(link::Channel::adopt(fds->first)).value();
    reporter = std::move(link::Reporter::start(fds->second, 60'000)).value();
  }
  void read() {
    EXPECT_TRUE(reporter->drain(20'000));
    EXPECT_TRUE(agent
                    .receive([this](const std::string& bytes) -> Status {
                      wire::RankFrame frame;
                      DSV3_RETURN_IF_ERROR(protocol::decode(bytes, &frame));
                      seen.push_back(frame.message());
                      return {};
                    })
                    .ok());
  }
};

TEST(RankObserver, ReportsStepsAndCountsExactly) {
  Observed observed;
  volatile std::sig_atomic_t signal = 0;
  {
    RankObserver observer({.log_interval_steps = 0, .num_moe_layers = 2}, observed.reporter.get(),
                          &signal);
    train::StepReport report = demo_step();
    report.loss = 0.1 + 0.2;
    report.dropped = int64_t{1} << 33;
    observer.on_step(report);
    const int64_t big[] = {int64_t{1} << 40, 0, 3};
    observer.on_expert_counts(120, 1, big);
    observer.on_expert_counts(120, 2, big);
    observer.on_expert_counts(121, 1, big);  // one layer only: sent when the observer ends
    EXPECT_EQ(observer.last_step(), 120);
  }
  observed.read();
  ASSERT_EQ(observed.seen.size(), 3u);
  EXPECT_EQ(observed.seen[0].step().loss(), 0.1 + 0.2);
  EXPECT_EQ(observed.seen[0].step().memory_bytes(), int64_t{512} << 20);
  EXPECT_EQ(observed.seen[0].step().dropped(), int64_t{1} << 33);
  ASSERT_EQ(observed.seen[1].experts().layers_size(), 2);
  EXPECT_EQ(observed.seen[1].experts().step(), 120);
  EXPECT_EQ(observed.seen[1].experts().layers(1).layer(), 2);
  EXPECT_EQ(observed.seen[1].experts().layers(1).tokens(0), uint64_t{1} << 40);
  EXPECT_EQ(observed.seen[2].experts().step(), 121);
}

TEST(RankObserver, OtherRanksLeaveTheJobsWordsToRankZero) {
  Observed observed;
  volatile std::sig_atomic_t signal = 0;
  RankObserver observer({.rank = 1, .num_moe_layers = 1}, observed.reporter.get(), &signal);
  observer.on_step(demo_step());
  const int64_t counts[] = {1};
  observer.on_expert_counts(120, 1, counts);
  observer.on_validation({});
  observer.on_memory({{"weights", 5}});
  observed.read();
  ASSERT_EQ(observed.seen.size(), 1u);
  EXPECT_EQ(observed.seen[0].memory().entries(0).measured_bytes(), 5);
}

TEST(RankObserver, WritesMetricsThatCanBeReadBackExactly) {
  const std::string path = testing::TempDir() + "metrics-" + std::to_string(::getpid());
  volatile std::sig_atomic_t signal = 0;
  train::StepReport report = demo_step();
  report.loss = 0.1 + 0.2;
  for (const int64_t rank : {0, 1}) {
    RankObserver observer(
        {.rank = rank, .log_interval_steps = 0, .attempt = 2, .metrics_path = path}, nullptr,
        &signal);
    observer.on_step(report);
    report.step = 121;
    report.grad_norm = std::numeric_limits<double>::quiet_NaN();
    observer.on_step(report);
  }
  const Result<std::string> text = read_file(path);
  ASSERT_TRUE(text.ok()) << text.status().to_string();
  const std::vector<std::string> lines = split(*text, '\n');
  ASSERT_EQ(lines.size(), 3u) << "rank 0's two, and what is behind the last newline: " << *text;
  const auto first = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(first["loss"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(first["attempt"], 2);
  EXPECT_EQ(first["step"], 120);
  EXPECT_EQ(first["dropped"], 0) << "known, and none";
  EXPECT_EQ(first["memory_bytes"], int64_t{512} << 20);
  EXPECT_TRUE(nlohmann::json::parse(lines[1])["grad_norm"].is_null());
  ::unlink(path.c_str());
}

TEST(RankObserver, SignalStopsAlsoWithoutALink) {
  volatile std::sig_atomic_t signal = 0;
  RankObserver observer({.log_interval_steps = 0}, nullptr, &signal);
  observer.on_step(demo_step());
  EXPECT_FALSE(observer.stop_requested());
  EXPECT_FALSE(observer.checkpoint_requested());
  signal = 15;
  EXPECT_TRUE(observer.stop_requested());
}

TEST(TrainWords, AreParsedAndChecked) {
  bool help = false;
  const auto words = parse_train_words(
      {"--spec", "demo", "--set", "a=1", "--set", "b=2", "--rank", "1", "--world", "2",
       "--rendezvous", "local:j-1", "--link-fd", "3", "--job", "j-1", "--attempt", "4"},
      &help);
  ASSERT_TRUE(words.ok()) << words.status().to_string();
  EXPECT_EQ(words->overrides, (std::vector<std::string>{"a=1", "b=2"}));
  EXPECT_EQ(words->rank, 1);
  EXPECT_EQ(words->rendezvous, "local:j-1");
  EXPECT_EQ(words->link_fd, 3);
  EXPECT_EQ(words->attempt, 4);
  EXPECT_TRUE(words->resume);
  using Words = std::vector<std::string>;
  for (const Words& bad :
       {Words{}, Words{"--spec"}, Words{"--spec", "x", "--rank", "2", "--world", "2"},
        Words{"--spec", "x", "--rank", "1", "--world", "2"}, Words{"--spec", "x", "--nonsense"},
        Words{"--spec", "x", "--rank", "-1"}}) {
    EXPECT_EQ(parse_train_words(bad, &help).status().code(), Code::kInvalid);
  }
  EXPECT_FALSE(help);
}

TEST(ExitCodes, OnlyTheFrozenOnesLeaveAWorker) {
  EXPECT_EQ(exit_code_of({}), 0);
  EXPECT_EQ(exit_code_of(Status(Code::kLossNotFinite, "x")), 14);
  EXPECT_EQ(exit_code_of(Status(Code::kNotFound, "x")), 2);
  EXPECT_EQ(exit_code_of(Status(Code::kConflict, "x")), 1);
  EXPECT_EQ(exit_code_of(Status(Code::kTimeout, "x")), 1);
}

}  // namespace
}  // namespace dsv3::rank
