// dsv3-worker as a real process: prepares bytes, trains a tiny model, stops on a signal, resumes,
// refuses with frozen codes.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "base/file.h"
#include "base/process.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "worker/link/channel.h"

namespace dsv3::rank {
namespace {

constexpr const char* kTiny = R"(
model:
  name: tiny
  vocab_size: 384
  num_layers: 2
  d_model: 32
  num_heads: 2
  dense_intermediate_size: 64
  max_context_length: 32
  mla: {kv_lora_rank: 16, q_lora_rank: 16, qk_nope_head_dim: 8, qk_rope_head_dim: 8, v_head_dim: 8}
  moe: {num_experts: 4, num_experts_per_token: 2, expert_intermediate_size: 32, first_k_dense: 1}
training: {max_steps: 4, global_batch_size: 4, micro_batch_size: 4, seq_length: 32, dtype: fp32, learning_rate: 1.0e-2}
)";

class WorkerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    char path[] = "/tmp/dsv3-worker-XXXXXX";
    dir_ = new std::string(::mkdtemp(path));
    std::string text;
    for (int i = 0; i < 400; ++i) text += "line " + std::to_string(i * 7 % 13) + " of a text\n\n";
    ASSERT_TRUE(write_file(*dir_ + "/text.txt", text).ok());
    ASSERT_TRUE(write_file(*dir_ + "/tiny.yaml", std::string(kTiny) + "data: {path: " + *dir_ +
                                                     "/data, split: [0.8, 0.2], tokenizer: byte}\n")
                    .ok());
    ASSERT_EQ(run({"data-prepare", "--input", *dir_ + "/text.txt", "--tokenizer", "byte", "--out",
                   *dir_ + "/data"}),
              0);
  }
  static void TearDownTestSuite() {
    std::filesystem::remove_all(*dir_);
    delete dir_;
  }
  static pid_t start(std::vector<std::string> words, int link_fd = -1) {
    SpawnOptions options{.argv = {WORKER_PROGRAM}};
    options.argv.insert(options.argv.end(), words.begin(), words.end());
    options.stdout_path = *dir_ + "/out";
    options.stderr_path = *dir_ + "/err";
    // Threads that spin for a core would stall on a machine that runs other tests beside this one.
    options.extra_env = {{"OMP_NUM_THREADS", "1"}};
    if (link_fd >= 0) {
      options.fds = {{link_fd, 3}};
      options.argv.insert(options.argv.end(), {"--link-fd", "3"});
    }
    options.die_with_parent = true;
    const auto pid = spawn(options);
    DSV3_CHECK(pid.ok());
    return *pid;
  }
  static int wait_for(pid_t pid) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < deadline) {
      if (const auto code = try_reap(pid)) return *code;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ::kill(pid, SIGKILL);
    return -1;
  }
  static int run(std::vector<std::string> words) {
    std::filesystem::remove(*dir_ + "/out");
    std::filesystem::remove(*dir_ + "/err");
    return wait_for(start(std::move(words)));
  }
  // The same in a shell's process after `command`; nothing that takes long.
  static int run_under(const std::string& command, const std::vector<std::string>& words) {
    for (const char* name : {"/out", "/err"}) std::filesystem::remove(*dir_ + name);
    std::string line = command + " && exec " WORKER_PROGRAM;
    for (const std::string& word : words) line += " " + word;
    SpawnOptions options{.argv = {"/bin/sh", "-c", line}};
    options.stdout_path = *dir_ + "/out";
    options.stderr_path = *dir_ + "/err";
    options.extra_env = {{"OMP_NUM_THREADS", "1"}};
    options.die_with_parent = true;
    const auto pid = spawn(options);
    DSV3_CHECK(pid.ok());
    return wait_for(*pid);
  }
  static std::string text_of(const std::string& name) {
    const auto text = read_file(*dir_ + "/" + name);
    return text.ok() ? *text : "";
  }
  static std::string spec() { return *dir_ + "/tiny.yaml"; }
  static std::string* dir_;
};
std::string* WorkerTest::dir_ = nullptr;

TEST_F(WorkerTest, TrainsStandaloneAndPrintsEveryStep) {
  ASSERT_EQ(run({"--spec", spec()}), 0) << text_of("err");
  const std::string out = text_of("out");
  for (const char* part :
       {"step 1/4 loss ", "step 4/4 loss ", "validation at step 4 loss ", "tok/s"}) {
    EXPECT_NE(out.find(part), std::string::npos) << part << " in " << out;
  }
}

TEST_F(WorkerTest, ResumesWhereItStopped) {
  const std::string job_dir = *dir_ + "/resumed";
  ASSERT_EQ(run({"--spec", spec(), "--job-dir", job_dir}), 0) << text_of("err");
  ASSERT_EQ(run({"--spec", spec(), "--set", "training.max_steps=5", "--job-dir", job_dir}), 0);
  EXPECT_EQ(text_of("out").find("step 4/5"), std::string::npos);
  EXPECT_NE(text_of("out").find("step 5/5"), std::string::npos) << text_of("out");
}

TEST_F(WorkerTest, SignalEndsItWithACheckpointToBeTriedAgain) {
  const std::string job_dir = *dir_ + "/signalled";
  std::filesystem::remove(*dir_ + "/out");
  const pid_t pid =
      start({"--spec", spec(), "--set", "training.max_steps=1000000", "--job-dir", job_dir});
  while (text_of("out").find("step 2/") == std::string::npos && process_alive(pid)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ::kill(pid, SIGTERM);
  EXPECT_EQ(wait_for(pid), 75) << text_of("err");
  EXPECT_NE(text_of("out").find("checkpoint at step"), std::string::npos) << text_of("out");
}

TEST_F(WorkerTest, RefusesWithTheFrozenCodeAndSaysWhy) {
  EXPECT_EQ(run({"--spec", spec(), "--set", "parallel.tensor_parallel_size=2"}), 2);
  EXPECT_NE(text_of("err").find("is for 2 ranks, --world says 1"), std::string::npos);
  EXPECT_EQ(run({"--spec", *dir_ + "/absent.yaml"}), 2);
  EXPECT_EQ(run({"--spec", spec(), "--set", "data.path=/nonexistent/data"}), 2);
  EXPECT_NE(text_of("err").find("/nonexistent/data"), std::string::npos);
  EXPECT_EQ(run({"--nonsense"}), 2);
  EXPECT_EQ(run({"no-such-verb"}), 2);
  EXPECT_EQ(run({"--spec", spec(), "--link-fd", "77"}), 2);
  EXPECT_EQ(run({"data-prepare", "--out", *dir_ + "/x"}), 2);
}

// From too little for the loader up to enough: whichever allocation is the first to be refused.
// (What oneDNN makes its code in is one of them; it ended the process by signal 11.)
TEST_F(WorkerTest, AddressesThatRunOutAreOutOfMemoryAtAnyPoint) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer reserves more addresses than any limit";
#endif
  constexpr int kLoader = 127;  // no shared library could be mapped: nothing of ours runs yet
  int refused = 0, in_product = 0;
  int code = -1;
  for (int64_t kib = 48 << 10; code != 0; kib += 2 << 10) {
    ASSERT_LT(kib, 1 << 20) << "not enough at 1 GiB: " << text_of("err");
    code = run_under("ulimit -v " + std::to_string(kib),
                     {"train", "--spec", spec(), "--set", "training.max_steps=1"});
    if (code == 0 || code == kLoader) continue;
    const std::string text = text_of("err");
    EXPECT_EQ(code, 13) << kib << " KiB: " << text;
    EXPECT_TRUE(text.find("memory") != std::string::npos ||
                text.find("could not be allocated") != std::string::npos)
        << kib << " KiB: " << text;
    in_product += text.find("matmul") != std::string::npos;
    ++refused;
  }
  EXPECT_GT(refused, 5);
  EXPECT_GT(in_product, 0);
}

TEST_F(WorkerTest, FirstAttemptOfAJobDoesNotGoOnFromAnothersCheckpoint) {
  const std::string folder = *dir_ + "/shared/tiny-1";
  const std::vector<std::string> words = {"train", "--spec", spec(),  "--checkpoint-dir",
                                          folder,  "--job",  "tiny-1"};
  ASSERT_EQ(run(words), 0) << text_of("err");
  for (const auto& [attempt, code] : {std::pair{"1", 15}, {"2", 0}}) {
    const auto fds = link::make_socketpair();
    ASSERT_TRUE(fds.ok());
    std::filesystem::remove(*dir_ + "/err");
    std::vector<std::string> more = words;
    more.insert(more.end(), {"--attempt", attempt});
    const pid_t pid = start(more, fds->second);
    ::close(fds->second);
    EXPECT_EQ(wait_for(pid), code) << text_of("err");
    ::close(fds->first);
    EXPECT_EQ(text_of("err").find("choose another checkpoint.path") != std::string::npos,
              code == 15)
        << text_of("err");
  }
}

TEST_F(WorkerTest, TellsItsAgentEverythingInOrder) {
  const auto fds = link::make_socketpair();
  ASSERT_TRUE(fds.ok());
  std::filesystem::remove(*dir_ + "/out");
  const pid_t pid = start({"train", "--spec", spec(), "--job", "tiny-1"}, fds->second);
  ::close(fds->second);
  link::Channel agent = std::move(link::Channel::adopt(fds->first)).value();
  std::vector<wire::RankMessage> seen;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (agent.open() && std::chrono::steady_clock::now() < deadline) {
    ASSERT_TRUE(agent
                    .receive([&](const std::string& bytes) -> Status {
                      wire::RankFrame frame;
                      DSV3_RETURN_IF_ERROR(protocol::decode(bytes, &frame));
                      seen.push_back(frame.message());
                      return {};
                    })
                    .ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(wait_for(pid), 0) << text_of("err");
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front().hello().pid(), pid);
  EXPECT_EQ(seen.back().exit_report().code(), 0);
  EXPECT_EQ(seen.back().exit_report().step(), 4);
  int64_t steps = 0;
  int64_t tokens = 0;
  bool validated = false;
  bool memory = false;
  for (const wire::RankMessage& message : seen) {
    if (message.has_step()) {
      EXPECT_EQ(message.step().step(), ++steps);
    }
    validated |= message.has_validation();
    memory |= message.has_memory() && message.memory().entries_size() > 0;
    for (const wire::LayerCounts& layer : message.experts().layers()) {
      for (const uint64_t count : layer.tokens()) tokens += static_cast<int64_t>(count);
    }
  }
  EXPECT_EQ(steps, 4);
  EXPECT_EQ(tokens, 4 * 4 * 32 * 2);  // steps · sequences · tokens · top-k, one MoE layer
  EXPECT_TRUE(validated);
  EXPECT_TRUE(memory);
}

}  // namespace
}  // namespace dsv3::rank
