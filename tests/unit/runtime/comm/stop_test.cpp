// A rank that is told to stop while it waits for the others, and a door without descriptors.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "runtime/comm/cpu/door.h"
#include "runtime/comm/cpu/socket.h"
#include "tests/unit/runtime/comm/ranks.h"

namespace dsv3::comm {
namespace {

TEST(Stop, EndsTheMeetingAtOnceAndIsToldToThoseWhoCame) {
  const std::string rendezvous = unique_rendezvous();
  Shared& shared = shared_memory();
  all_ranks(2, [&](int rank) {  // the third one never comes
    MeshOptions options = options_for(rendezvous, rank, 3);
    options.connect_timeout_ms = 20'000;
    options.stop = [&, looks = 0]() mutable {
      if (rank == 0) return shared.flags[0] != 0;
      if (++looks > 20) shared.flags[0] = 1;  // long enough to have met rank 0
      return false;
    };
    const int64_t begin_ns = now_ns();
    auto mesh = Mesh::connect(options);
    expect(!mesh.ok(), "connected");
    const Code code = rank == 0 ? Code::kInterrupted : Code::kPeerLost;
    expect(mesh.status().code() == code, mesh.status().to_string());
    expect(now_ns() - begin_ns < 5'000'000'000, "late");
  });
}

TEST(Stop, IsHeardWhileAGroupIsMade) {
  const std::string rendezvous = unique_rendezvous();
  Shared& shared = shared_memory();
  all_ranks(2, [&](int rank) {
    MeshOptions options = options_for(rendezvous, rank, 2);
    options.operation_timeout_ms = 20'000;
    options.stop = [&] { return rank == 0 && shared.flags[0] != 0; };
    const auto mesh = connect_or_throw(options);
    if (rank == 1) shared.flags[0] = 1;  // both have met
    const int64_t begin_ns = now_ns();
    try {
      if (rank == 0) (void)mesh->create_group("both", {0, 1});
      if (rank == 1) {  // comes too late to it: the other has gone
        while (!shared.flags[1]) poll(nullptr, 0, 1);
        (void)mesh->create_group("both", {0, 1});
      }
      expect(false, "a group was made");
    } catch (const Failure& failure) {
      const Code code = rank == 0 ? Code::kInterrupted : Code::kPeerLost;
      expect(failure.code() == code, failure.what());
    }
    shared.flags[1] = 1;
    expect(now_ns() - begin_ns < 5'000'000'000, "late");
  });
}

TEST(Stop, ATcpMeetingIsEndedOnBothSides) {
  const std::string rendezvous = "tcp:127.0.0.1:" + std::to_string(free_port());
  all_ranks(2, [&](int rank) {
    MeshOptions options = options_for(rendezvous, rank, 3);
    options.connect_timeout_ms = 20'000;
    options.stop = [looks = 0]() mutable { return ++looks > 5; };
    const int64_t begin_ns = now_ns();
    auto mesh = Mesh::connect(options);
    expect(!mesh.ok() && mesh.status().code() == Code::kInterrupted, mesh.status().to_string());
    expect(now_ns() - begin_ns < 5'000'000'000, "late");
  });
}

TEST(Stop, ADoorWithoutDescriptorsWaitsInsteadOfSpinning) {
  all_ranks(1, [&](int) {
    Door door("token", 2);
    const Address address = unix_address("dsv3-stop-test-" + std::to_string(getpid()));
    expect(door.open(address).ok(), "not opened");
    int error = 0;
    const Fd caller = start_connect(address, error);
    expect(error == 0, error_text(error));
    rlimit before{};
    expect(getrlimit(RLIMIT_NOFILE, &before) == 0, "no limit");
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(caller.get()) + 1;
    expect(setrlimit(RLIMIT_NOFILE, &none) == 0, "no limit set");
    door.receive();
    std::vector<pollfd> fds;
    const int64_t far_ns = now_ns() + 60'000'000'000;
    int64_t until_ns = far_ns;
    door.add_poll(fds, until_ns);
    expect(fds.empty() && until_ns < far_ns, "it polls for a caller that it can't let in");
    poll_until(fds, until_ns);
    expect(setrlimit(RLIMIT_NOFILE, &before) == 0, "no limit set");
    fds.clear();
    until_ns = far_ns;
    door.add_poll(fds, until_ns);
    expect(fds.size() == 1 && until_ns == far_ns, "it does not look again");
    door.receive();
    fds.clear();
    door.add_poll(fds, until_ns);
    expect(fds.size() == 2, "the caller was not let in");
  });
}

}  // namespace
}  // namespace dsv3::comm
