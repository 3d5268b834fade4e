// How ranks meet: strangers, wrong tokens, missing ranks, several attempts at once.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "runtime/comm/cpu/socket.h"
#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/comm/values.h"

namespace dsv3::comm {
namespace {

std::string tcp_rendezvous() {
  return "tcp:127.0.0.1:" + std::to_string(free_port());
}

void check_sum(Mesh& mesh) {
  auto c = mesh.create_group("dp", all_of(mesh.world()));
  int64_t x = 1 << mesh.rank();
  c->all_reduce("sum", {&x, 1, DType::kI64});
  expect(x == (1 << mesh.world()) - 1, "the sum is " + std::to_string(x));
  c->barrier("end");
}

TEST(Meeting, AWrongTokenIsRefusedAndTheOthersWaitForTheRightOne) {
  for (const std::string& rendezvous : {unique_rendezvous(), tcp_rendezvous()}) {
    Shared& shared = shared_memory();
    all_ranks(4, [&](int number) {
      const int rank = number == 3 ? 2 : number;  // two of them say that they are rank 2
      MeshOptions options = options_for(rendezvous, rank, 3);
      if (number == 3) {
        options.token = "another";
        auto mesh = Mesh::connect(options);
        shared.flags[0] = 1;
        expect(!mesh.ok() && mesh.status().code() == Code::kConflict, "let in");
        expect(mesh.status().message().find("the tokens differ") != std::string::npos,
               mesh.status().to_string());
        return;
      }
      while (number == 2 && shared.flags[0] == 0) std::this_thread::yield();
      check_sum(*connect_or_throw(options));
    });
  }
}

TEST(Meeting, AnotherNumberOfRanksIsRefused) {
  const std::string rendezvous = unique_rendezvous();
  all_ranks(2, [&](int rank) {
    MeshOptions options = options_for(rendezvous, rank, rank == 0 ? 2 : 3);
    options.connect_timeout_ms = 250;
    auto mesh = Mesh::connect(options);
    expect(!mesh.ok(), "let in");
    const std::string text = mesh.status().to_string();
    const char* part = rank == 0 ? "rank 1 did not come" : "the numbers of ranks differ";
    expect(text.find(part) != std::string::npos, text);
  });
}

TEST(Meeting, MissingRanksAreNamedAtTheDeadline) {
  for (const std::string& rendezvous : {unique_rendezvous(), tcp_rendezvous()}) {
    all_ranks(2, [&](int rank) {
      MeshOptions options = options_for(rendezvous, rank, 4);
      options.connect_timeout_ms = 200 + 200 * rank;
      const int64_t begin = now_ns();
      auto mesh = Mesh::connect(options);
      const int64_t ms = (now_ns() - begin) / 1'000'000;
      expect(!mesh.ok(), "connected");
      expect(ms >= 150 && ms < 900, "after " + std::to_string(ms) + " ms");
      const std::string text = mesh.status().to_string();
      if (rank == 0) {
        expect(mesh.status().code() == Code::kCollectiveTimeout, text);
        expect(text.find("ranks 2, 3 did not come") != std::string::npos, text);
      }
    });
  }
}

TEST(Meeting, StrangersAreDroppedAndTheMeshStands) {
  const int port = free_port();
  const std::string rendezvous = "tcp:127.0.0.1:" + std::to_string(port);
  Shared& shared = shared_memory();
  all_ranks(3, [&](int rank) {
    if (rank == 2) {  // not a rank: talks nonsense, or nothing, to whoever listens
      const Address there = *parse_tcp("127.0.0.1:" + std::to_string(port));
      std::vector<Fd> silent;
      int turn = 0;
      while (shared.flags[0] == 0) {
        int error = 0;
        Fd fd = start_connect(there, error);
        const std::string text(turn % 3 == 0 ? 1000 : turn % 3, static_cast<char>(turn * 37));
        if (error == 0 || error == EINPROGRESS)
          (void)!send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (silent.size() < 100) silent.push_back(std::move(fd));
        if (++turn >= 40) shared.flags[1] = 1;
        std::this_thread::yield();
      }
      return;
    }
    while (rank == 1 && shared.flags[1] == 0) std::this_thread::yield();
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 2));
    check_sum(*mesh);
    shared.flags[0] = 1;
  });
}

TEST(Meeting, AttemptsBesideEachOtherDoNotMix) {
  const std::string a = unique_rendezvous(), b = unique_rendezvous();
  all_ranks(6, [&](int number) {
    check_sum(*connect_or_throw(options_for(number % 2 ? a : b, number / 2, 3)));
  });
}

// The others connect all their groups before rank 0 opens its door: more connections than strangers
// are let in.
TEST(Meeting, ALateRankFindsTheGroupsOfAllWhoAreAhead) {
  constexpr int kWorld = 16, kGroups = 5;
  const std::string rendezvous = unique_rendezvous();
  Shared& shared = shared_memory();
  all_ranks(kWorld, [&](int rank) {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, kWorld));
    while (rank == 0 && shared.count < kWorld - 1) std::this_thread::yield();
    std::vector<std::unique_ptr<Communicator>> groups;
    for (int i = 0; i < kGroups; ++i)
      groups.push_back(mesh->create_group("g" + std::to_string(i), all_of(kWorld)));
    ++shared.count;
    for (const auto& group : groups) group->barrier("all there");
  });
}

TEST(Meeting, BadOptionsAreNamed) {
  const auto error = [](const std::function<void(MeshOptions&)>& change) {
    MeshOptions options = options_for("local:x", 0, 2);
    change(options);
    auto mesh = Mesh::connect(options);
    EXPECT_FALSE(mesh.ok());
    EXPECT_EQ(mesh.status().code(), Code::kInvalid) << mesh.status().to_string();
    return mesh.status().message();
  };
  EXPECT_EQ(error([](MeshOptions& o) { o.rank = 2; }), "rank 2 is not one of 2");
  EXPECT_EQ(error([](MeshOptions& o) { o.token = std::string(65, 'x'); }),
            "the token has 65 bytes; at most 64 are allowed");
  EXPECT_EQ(error([](MeshOptions& o) { o.rendezvous = "file:x"; }),
            "the rendezvous 'file:x' is neither local:NAME nor tcp:HOST:PORT");
  EXPECT_EQ(error([](MeshOptions& o) { o.transport = "rdma"; }),
            "the transport 'rdma' is neither auto nor tcp");
  error([](MeshOptions& o) { o.rendezvous = "tcp:no.such.host.invalid:7000"; });
}

}  // namespace
}  // namespace dsv3::comm
