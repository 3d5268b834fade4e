// Ranks as processes: see ranks.h.
#include "tests/unit/runtime/comm/ranks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <new>
#include <numeric>

namespace dsv3::comm {
namespace {

constexpr int64_t kLimitNs = 30'000'000'000;

int64_t steady_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

[[noreturn]] void run_child(int out, int rank, const std::function<std::string(int)>& body) {
  std::string text;
  int code = 0;
  try {
    text = body(rank);
  } catch (const std::exception& e) {
    text = e.what();
    code = 1;
  }
  (void)!write(out, text.data(), text.size());
  _exit(code);
}

// Waits for the ranks; kills the stopped ones at the end, and all at the limit.
void reap(const std::vector<pid_t>& pids, std::vector<RankResult>& results) {
  std::vector<bool> ended(pids.size()), stopped(pids.size());
  const int64_t until = steady_ns() + kLimitNs;
  for (;;) {
    size_t running = 0, left = 0;
    for (size_t r = 0; r < pids.size(); ++r) {
      int status = 0;
      if (!ended[r] && waitpid(pids[r], &status, WNOHANG | WUNTRACED) == pids[r]) {
        if (WIFSTOPPED(status)) {
          stopped[r] = true;
        } else {
          ended[r] = true;
          results[r].failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
          if (WIFSIGNALED(status)) results[r].signal = WTERMSIG(status);
        }
      }
      left += !ended[r];
      running += !ended[r] && !stopped[r];
    }
    if (left == 0) return;
    const bool late = steady_ns() > until;
    if (running == 0 || late) {
      for (size_t r = 0; r < pids.size(); ++r)
        if (!ended[r]) kill(pids[r], SIGKILL);
    }
    EXPECT_FALSE(late) << "a rank hung";
    poll(nullptr, 0, 1);
  }
}

}  // namespace

std::vector<RankResult> run_ranks(int world, const std::function<std::string(int)>& body) {
  std::vector<RankResult> results(static_cast<size_t>(world));
  std::vector<pid_t> pids;
  std::vector<int> pipes;
  for (int r = 0; r < world; ++r) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t pid = fork();
    if (pid == 0) run_child(ends[1], r, body);
    close(ends[1]);
    pids.push_back(pid);
    pipes.push_back(ends[0]);
  }
  reap(pids, results);
  for (size_t r = 0; r < pids.size(); ++r) {
    char buffer[4096];
    for (ssize_t n = 0; (n = read(pipes[r], buffer, sizeof(buffer))) > 0;)
      results[r].text.append(buffer, static_cast<size_t>(n));
    close(pipes[r]);
  }
  return results;
}

void all_ranks(int world, const std::function<void(int)>& body) {
  const auto results = run_ranks(world, [&](int rank) {
    body(rank);
    return std::string();
  });
  for (size_t r = 0; r < results.size(); ++r)
    EXPECT_TRUE(!results[r].failed && results[r].signal == 0)
        << "rank " << r << " of " << world << ": " << results[r].text << " (signal "
        << results[r].signal << ")";
}

Shared& shared_memory() {
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return *new (memory) Shared();
}

std::string unique_rendezvous() {
  static int count = 0;
  return "local:test " + std::to_string(getpid()) + " " + std::to_string(++count);
}

MeshOptions options_for(const std::string& rendezvous, int rank, int world) {
  MeshOptions options;
  options.rank = rank;
  options.world = world;
  options.rendezvous = rendezvous;
  options.token = "a secret";
  options.connect_timeout_ms = 20'000;
  options.operation_timeout_ms = 20'000;
  return options;
}

int free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
  close(fd);
  return ntohs(address.sin_port);
}

std::unique_ptr<Mesh> connect_or_throw(const MeshOptions& options) {
  auto mesh = Mesh::connect(options);
  expect(mesh.ok(), "connect: " + mesh.status().to_string());
  return std::move(mesh).value();
}

std::vector<int> all_of(int world) {
  std::vector<int> members(static_cast<size_t>(world));
  std::iota(members.begin(), members.end(), 0);
  return members;
}

}  // namespace dsv3::comm
