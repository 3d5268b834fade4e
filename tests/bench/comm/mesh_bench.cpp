// The communication benchmark with our mesh: bench_comm_mesh RANKS [auto|tcp]; forks the ranks.
// Beside the common cases it measures the processor time of a rank that waits for half a second.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <numeric>

#include "base/failure.h"
#include "runtime/comm/cpu/mesh.h"
#include "tests/bench/comm/cases.h"

namespace dsv3::bench {
namespace {

struct Ours {
  comm::Communicator& c;
  int rank = c.rank();
  int size = c.size();

  static comm::Buffer buffer(float* data, int64_t n) { return {data, n, DType::kF32}; }
  std::vector<int64_t> counts(int64_t n) const {
    return std::vector<int64_t>(static_cast<size_t>(size), n);
  }
  void barrier() { c.barrier("barrier"); }
  void all_reduce(float* data, int64_t n) { c.all_reduce("all_reduce", buffer(data, n)); }
  void all_gather(float* in, int64_t n, float* out) {
    c.all_gather("all_gather", buffer(in, n), buffer(out, n * size), counts(n));
  }
  void all_to_all(float* in, int64_t n, float* out) {
    c.all_to_all("all_to_all", buffer(in, n * size), counts(n), buffer(out, n * size), counts(n));
  }
  void reduce_scatter(float* in, int64_t n, float* out) {
    c.reduce_scatter("reduce_scatter", buffer(in, n * size), buffer(out, n), counts(n));
  }
  void send(float* data, int64_t n, int to) { c.send("message", buffer(data, n), to); }
  void receive(float* data, int64_t n, int from) { c.receive("message", buffer(data, n), from); }
};

void measure_waiting(Ours& ours) {
  ours.barrier();
  const double begin = seconds(), cpu = cpu_seconds();
  if (ours.rank == 1) usleep(500'000);
  ours.barrier();
  if (ours.rank == 0)
    std::printf("# waiting %.0f ms took %.3f ms of processor time\n", 1e3 * (seconds() - begin),
                1e3 * (cpu_seconds() - cpu));
}

int run_rank(int rank, int world, const std::string& transport, const std::string& rendezvous) {
  comm::MeshOptions options;
  options.rank = rank;
  options.world = world;
  options.rendezvous = rendezvous;
  options.transport = transport;
  auto mesh = comm::Mesh::connect(options);
  if (!mesh.ok()) {
    std::fprintf(stderr, "%s\n", mesh.status().to_string().c_str());
    return 1;
  }
  std::vector<int> members(static_cast<size_t>(world));
  std::iota(members.begin(), members.end(), 0);
  try {
    auto group = (*mesh)->create_group("bench", members);
    Ours ours{*group};
    run_cases(ours, "ours");
    measure_waiting(ours);
  } catch (const Failure& f) {
    std::fprintf(stderr, "%s\n", f.what());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace dsv3::bench

int main(int argc, char** argv) {
  const int world = argc > 1 ? std::atoi(argv[1]) : 2;
  const std::string transport = argc > 2 ? argv[2] : "auto";
  const std::string rendezvous = transport == "tcp"
                                     ? "tcp:127.0.0.1:" + std::to_string(20'000 + getpid() % 10'000)
                                     : "local:bench " + std::to_string(getpid());
  for (int rank = 0; rank < world; ++rank) {
    if (fork() != 0) continue;
    const int code = dsv3::bench::run_rank(rank, world, transport, rendezvous);
    std::fflush(stdout);
    _exit(code);
  }
  int failed = 0;
  for (int status = 0; wait(&status) > 0;) failed |= status;
  return failed != 0;
}
