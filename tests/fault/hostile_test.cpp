// Strangers at the doors of a running dsv3d and of running ranks, and data that can't be trained
// on: what a port scanner, a wrong program or a wrong file brings.
//
// Law: whoever doesn't show the key or the token gets nothing and disturbs nobody; a fault in the
// data is one sentence with the file.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "base/file.h"
#include "tests/fault/gang.h"

namespace dsv3::e2e {
namespace {

namespace fs = std::filesystem;

constexpr int kForEver = 10'000'000;  // steps

// A connection that says `bytes` and then nothing; closed when it goes.
class Stranger {
 public:
  Stranger(const sockaddr* address, socklen_t length, const std::string& bytes)
      : fd_(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    EXPECT_EQ(::connect(fd_, address, length), 0) << std::strerror(errno);
    size_t done = 0;
    while (done < bytes.size()) {  // until it hangs up on us, or reads no more
      const ssize_t n =
          ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL | MSG_DONTWAIT);
      pollfd ready{.fd = fd_, .events = POLLOUT, .revents = 0};
      if (n < 0 && (errno != EAGAIN || ::poll(&ready, 1, 200) <= 0)) break;
      if (n > 0) done += static_cast<size_t>(n);
    }
  }
  Stranger(Stranger&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Stranger() {
    if (fd_ >= 0) ::close(fd_);
  }

 private:
  int fd_;
};

std::string garbage(size_t bytes) {
  std::string text(bytes, '\0');
  uint32_t random = 11;
  for (char& c : text) c = static_cast<char>((random = random * 1664525u + 1013904223u) >> 24);
  return text;
}

// A greeting of ZMTP 3 with the mechanism, as another ZeroMQ program would send it.
std::string zmtp_greeting(const std::string& mechanism) {
  std::string bytes = std::string("\xff", 1) + std::string(7, '\0') + "\x01\x7f\x03";
  bytes += std::string("\0", 1) + mechanism + std::string(20 - mechanism.size(), '\0');
  return bytes + std::string(32, '\0');
}

std::vector<std::string> hostile_bytes() {
  return {"", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", garbage(64), garbage(1 << 20),
          zmtp_greeting("NULL"), zmtp_greeting("CURVE").substr(0, 40),
          // After the greeting a command whose length is 2^63.
          zmtp_greeting("CURVE") + "\x06\x7f" + std::string(7, '\xff') + garbage(4096),
          zmtp_greeting("CURVE") + std::string("\x04\x06", 2) + "HELLO", std::string(200, '\xff')};
}

// Of a process, in bytes.
int64_t resident_bytes(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(Hostile, StrangersAtTheCoordinatorsPortDisturbNobody) {
  const Home home;
  ASSERT_EQ(home.ctl({"up"}).code, 0);
  const pid_t pid = home.coordinator_pid();
  const Json file = Json::parse(*read_file(home.state_dir() + "/coordinator.json"));
  const std::string endpoint = file["endpoint"];
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port =
      htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int64_t before = resident_bytes(pid);
  std::vector<Stranger> strangers;
  for (int i = 0; i < 8; ++i) {
    for (const std::string& bytes : hostile_bytes())
      strangers.emplace_back(reinterpret_cast<const sockaddr*>(&address), sizeof address, bytes);
  }
  EXPECT_EQ(home.ctl({"status"}, 10).code, 0);
  EXPECT_EQ(home.coordinator_pid(), pid);
  EXPECT_LT(resident_bytes(pid) - before, 64 << 20);
  strangers.clear();
  EXPECT_EQ(home.ctl({"nodes"}, 10).code, 0);
}

// Inodes of the sockets that the home's ranks hold.
std::set<std::string> rank_sockets(const Home& home) {
  std::set<std::string> inodes;
  for (const pid_t pid : home.processes("dsv3-worker")) {
    std::error_code error;
    std::filesystem::directory_iterator entry(fmt::format("/proc/{}/fd", pid), error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      const std::string link = std::filesystem::read_symlink(entry->path(), error).string();
      if (link.starts_with("socket:[")) inodes.insert(link.substr(8, link.size() - 9));
    }
  }
  return inodes;
}

// Abstract unix names that they listen at; other tests' ranks have theirs.
std::set<std::string> rank_names(const Home& home) {
  const std::set<std::string> own = rank_sockets(home);
  std::set<std::string> names;
  std::ifstream file("/proc/net/unix");
  for (std::string line; std::getline(file, line);) {
    const size_t at = line.find("@dsv3-");
    if (at == std::string::npos) continue;
    std::istringstream words(line);
    std::string word;
    for (int column = 0; column < 7; ++column) words >> word;  // the inode
    if (own.contains(word)) names.insert(line.substr(at + 1));
  }
  return names;
}

TEST(Hostile, StrangersAtARanksSocketDisturbNobody) {
  const Home home;
  const std::string id = home.start_job(kForEver, gang_words(0));
  std::vector<Stranger> strangers;
  int doors = 0;
  for (const std::string& name : rank_names(home)) {
    ++doors;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path + 1, name.data(), name.size());
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    for (const std::string& bytes : hostile_bytes())
      strangers.emplace_back(reinterpret_cast<const sockaddr*>(&address), length, bytes);
  }
  EXPECT_GE(doors, kRanks);
  const int64_t step = home.step(id);
  EXPECT_TRUE(wait_until([&] { return home.step(id) > step + 20; })) << home.job(id).dump(1);
  EXPECT_EQ(home.job(id)["attempt"], 1);
  EXPECT_EQ(home.ctl({"cancel", id}, 60).code, 0);
}

// Submits and expects the job to fail, with a reason that has all parts.
void expect_fails(const Home& home, const std::vector<std::string>& words,
                  const std::vector<std::string>& parts) {
  std::vector<std::string> all = {"submit"};
  all.insert(all.end(), words.begin(), words.end());
  all.emplace_back("--wait");
  const Outcome outcome = home.ctl(all, 60);
  EXPECT_TRUE(outcome.code == 1 || outcome.code == 2 || outcome.code == 6) << outcome.code;
  for (const std::string& part : parts)
    EXPECT_NE(outcome.err.find(part), std::string::npos) << "no '" << part << "': " << outcome.err;
}

TEST(Hostile, DataThatCannotBeTrainedOnIsNamed) {
  const Home home;
  const std::string prefix = home.prepare_text();
  const std::string config = home.write_config("tiny", prefix, 2);
  expect_fails(home, {config, "--set", "model.vocab_size=50"}, {prefix, "model.vocab_size 50"});
  // Data of another program, which says nothing of its vocabulary.
  for (const char* suffix : {".idx", ".bin"}) {
    fs::copy_file(prefix + suffix, prefix + "-bare" + suffix);
  }
  expect_fails(home,
               {home.write_config("bare", prefix + "-bare", 2), "--set", "model.vocab_size=50"},
               {prefix + "-bare.bin", "outside the vocabulary of 50"});
  std::ofstream(home.path() + "/few.txt") << "five\n";
  const std::string few = home.path() + "/data/few";
  ASSERT_EQ(home.ctl({"data", "prepare", "--input", home.path() + "/few.txt", "--tokenizer", "byte",
                      "--out", few})
                .code,
            0);
  expect_fails(home, {home.write_config("few", few, 2)}, {few, "tokens"});
  // An index of no sequences, as Megatron writes one.
  const std::string none = home.path() + "/data/none";
  std::string idx = "MMIDIDX";
  idx += std::string("\0\0", 2) + std::string("\x01\0\0\0\0\0\0\0", 8) + '\x08';
  idx += std::string(8, '\0') + std::string("\x01\0\0\0\0\0\0\0", 8) + std::string(8, '\0');
  ASSERT_TRUE(write_file(none + ".idx", idx).ok());
  ASSERT_TRUE(write_file(none + ".bin", "").ok());
  expect_fails(home, {home.write_config("none", none, 2)}, {none});
  std::ofstream(home.path() + "/empty.txt");
  const Outcome empty = home.ctl({"data", "prepare", "--input", home.path() + "/empty.txt",
                                  "--tokenizer", "byte", "--out", home.path() + "/data/empty"});
  EXPECT_EQ(empty.code, 2);
  EXPECT_NE(empty.err.find("no documents"), std::string::npos) << empty.err;
  EXPECT_FALSE(path_exists(home.path() + "/data/empty.bin"));
}

TEST(Hostile, FilesThatAreNoneAreNamedByEveryCommandThatReadsThem) {
  const Home home;
  const std::string file = home.path() + "/garbage", folder = home.path() + "/folder";
  const std::string absent = home.path() + "/absent", out = home.path() + "/out";
  ASSERT_TRUE(write_file(file, garbage(5000)).ok());
  fs::create_directories(folder);
  const std::vector<std::pair<std::vector<std::string>, int>> cases = {
      {{"data", "prepare", "--tokenizer", "byte", "--out", out, "--input", absent}, 5},
      {{"data", "prepare", "--tokenizer", "byte", "--out", out, "--input", folder}, 2},
      {{"data", "prepare", "--tokenizer", "byte", "--out", out, "--input", "/dev/zero"}, 2},
      {{"import", "--out", out, absent}, 5},
      {{"import", "--out", out, folder}, 5},
      {{"import", "--out", out, file}, 2},
      {{"export", "--format", "hf", "--out", out, "--checkpoint", absent}, 5},
      {{"export", "--format", "hf", "--out", out, "--checkpoint", folder}, 5},
      {{"export", "--format", "hf", "--out", out, "--checkpoint", file}, 5},
      {{"score", "--tokens", "1,2", "--checkpoint", file}, 5},
      {{"score", "--checkpoint", folder, "--tokens-file", absent}, 5},
      {{"score", "--checkpoint", folder, "--tokens-file", folder}, 2},
      {{"score", "--checkpoint", folder, "--tokens-file", file}, 2},
  };
  for (const auto& [words, code] : cases) {
    const Outcome outcome = home.ctl(words, 10);
    SCOPED_TRACE(words[0] + " " + words.back());
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(words.back()), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_FALSE(path_exists(out));
  }
  ASSERT_TRUE(write_file(folder + "/config.json", garbage(5000)).ok());
  ASSERT_TRUE(write_file(folder + "/model.safetensors", garbage(5000)).ok());
  const Outcome import = home.ctl({"import", folder, "--out", out});
  EXPECT_EQ(import.code, 2) << import.err;
  EXPECT_NE(import.err.find("config.json"), std::string::npos) << import.err;
}

}  // namespace
}  // namespace dsv3::e2e
