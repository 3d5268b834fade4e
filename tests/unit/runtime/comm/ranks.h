// Ranks as processes: forks them, runs a body in each, collects what went wrong.
//
// Law: a rank's failed expectation fails the test with its text; a rank that hangs is killed and
// named; nothing is left running.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/failure.h"
#include "runtime/comm/cpu/mesh.h"

namespace dsv3::comm {

// Memory that all ranks of a test share.
struct Shared {
  std::atomic<int64_t> time_ns[8];
  std::atomic<int> count{0};
  std::atomic<int> flags[8];
};

struct RankResult {
  int signal = 0;  // that ended it
  bool failed = false;
  std::string text;  // of the expectation that failed, or what the body returned
};

// Forks `world` processes; each runs `body(rank)` and sends back its text. Stopped ones (SIGSTOP)
// are killed once the others have ended; all are after 30 s.
std::vector<RankResult> run_ranks(int world, const std::function<std::string(int)>& body);
// The same for bodies that must succeed in every rank: adds a test failure for each that didn't.
void all_ranks(int world, const std::function<void(int)>& body);

// Zeroed; for the ranks forked after it. Lives until the process ends.
Shared& shared_memory();
// Options of a mesh that no other test has.
std::string unique_rendezvous();
MeshOptions options_for(const std::string& rendezvous, int rank, int world);
// A free TCP port of 127.0.0.1 (of the moment).
int free_port();

// In a rank: ends it with this text unless `ok`.
inline void expect(bool ok, const std::string& text) {
  if (!ok) throw std::runtime_error(text);
}
// Connects or ends the rank.
std::unique_ptr<Mesh> connect_or_throw(const MeshOptions& options);
std::vector<int> all_of(int world);

}  // namespace dsv3::comm
