// What breaks: lost, silent and aborting ranks, ranks that disagree. Every rank must hear who and
// in what, in time.
#include <gtest/gtest.h>

#include <csignal>
#include <ctime>
#include <fstream>
#include <map>
#include <thread>

#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/comm/values.h"

namespace dsv3::comm {
namespace {

#ifdef __SANITIZE_THREAD__
constexpr int64_t kSoonNs = 500'000'000;  // where everything takes several times as long
#else
constexpr int64_t kSoonNs = 100'000'000;
#endif

int64_t steady_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

// Time that this thread was ready to run but had no core: the machine's, not the mesh's.
int64_t no_core_ns() {
  int64_t ran = 0, waited = 0;
  std::ifstream("/proc/thread-self/schedstat") >> ran >> waited;
  return waited;
}

// Runs `body` again and again until it throws a Failure; "code: text".
std::string failure_of(const std::function<void()>& body) {
  try {
    for (;;) body();
  } catch (const Failure& f) {
    return std::string(code_name(f.code())) + ": " + f.what();
  }
}

void expect_contains(const std::string& text, const std::string& part) {
  expect(text.find(part) != std::string::npos, "'" + part + "' is not in: " + text);
}

// One of each kind, long enough to be under way for a while; all need every rank.
using Body = std::function<void(Communicator&)>;
const std::map<std::string, Body>& operations() {
  static std::vector<char> a(3 << 20), b(3 << 20);
  const int64_t n = 3 << 18;
  static const std::map<std::string, Body> all = {
      {"all_reduce", [](Communicator& c) { c.all_reduce("x", buffer(a, DType::kF32)); }},
      {"small all_reduce",
       [](Communicator& c) {
         c.all_reduce("x", {a.data(), 9, DType::kF32});
       }},
      {"reduce_scatter",
       [n](Communicator& c) {
         const std::vector<int64_t> counts(static_cast<size_t>(c.size()), n / c.size());
         c.reduce_scatter("x", {a.data(), counts[0] * c.size(), DType::kF32},
                          {b.data(), counts[0], DType::kF32}, counts);
       }},
      {"all_gather",
       [n](Communicator& c) {
         const std::vector<int64_t> counts(static_cast<size_t>(c.size()), n / c.size());
         c.all_gather("x", {a.data(), counts[0], DType::kF32},
                      {b.data(), counts[0] * c.size(), DType::kF32}, counts);
       }},
      {"all_to_all",
       [n](Communicator& c) {
         const std::vector<int64_t> counts(static_cast<size_t>(c.size()), n / c.size());
         const int64_t total = counts[0] * c.size();
         c.all_to_all("x", {a.data(), total, DType::kF32}, counts, {b.data(), total, DType::kF32},
                      counts);
       }},
      {"broadcast", [](Communicator& c) { c.broadcast("x", buffer(a, DType::kF32), 2); }},
      {"receive",
       [](Communicator& c) {
         if (c.rank() == 2)
           for (const int r : {0, 1, 3}) c.start_send("x", const_buffer(b, DType::kF32), r);
         else
           c.start_receive("x", buffer(a, DType::kF32), 2);
         c.wait_all();
       }},
      {"barrier", [](Communicator& c) { c.barrier("x"); }},
  };
  return all;
}

// Ends or stops this rank once the others are about to wait for it.
void fall(Shared& shared, int signal, int others) {
  while (shared.count < others) std::this_thread::yield();
  shared.time_ns[0] = steady_ns();
  raise(signal);
}

TEST(Faults, AKilledRankIsNamedEverywhereAtOnce) {
  std::vector<std::pair<std::string, std::string>> cases = {
      {"all_reduce", "tcp:127.0.0.1:" + std::to_string(free_port())}};
  for (const auto& [name, body] : operations()) cases.emplace_back(name, unique_rendezvous());
  for (const auto& [name, rendezvous] : cases) {
    const Body& body = operations().at(name);
    Shared& shared = shared_memory();
    const auto results = run_ranks(4, [&](int rank) -> std::string {
      MeshOptions options = options_for(rendezvous, rank, 4);
      if (rendezvous.starts_with("tcp:")) options.transport = "tcp";
      auto mesh = connect_or_throw(options);
      auto c = mesh->create_group("dp", all_of(4));
      body(*c);
      if (rank == 2) fall(shared, SIGKILL, 3);
      ++shared.count;
      const int64_t no_core = no_core_ns();
      const std::string text = failure_of([&] { body(*c); });
      const int64_t late = steady_ns() - shared.time_ns[0] - (no_core_ns() - no_core);
      expect(late < kSoonNs, "heard after " + std::to_string(late / 1'000'000) + " ms");
      // Once dead, it stays so.
      expect(text == failure_of([&] { c->progress(); }), "another failure than: " + text);
      return text;
    });
    for (const int rank : {0, 1, 3}) {
      const RankResult& r = results[static_cast<size_t>(rank)];
      EXPECT_FALSE(r.failed) << name << ", rank " << rank << ": " << r.text;
      const std::string operation = name.substr(name.rfind(' ') + 1) + " 'x' of group dp: ";
      EXPECT_NE(r.text.find("peer_lost: " + operation), std::string::npos)
          << name << ": " << r.text;
      EXPECT_NE(r.text.find("rank 2 closed its connection"), std::string::npos) << r.text;
    }
    EXPECT_EQ(results[2].signal, SIGKILL);
  }
}

TEST(Faults, ASilentRankIsNamedAtTheDeadline) {
  for (const bool inside : {true, false}) {
    const std::string rendezvous = unique_rendezvous();
    Shared& shared = shared_memory();
    const auto results = run_ranks(4, [&](int rank) -> std::string {
      MeshOptions options = options_for(rendezvous, rank, 4);
      options.operation_timeout_ms = 300;
      auto mesh = connect_or_throw(options);
      auto c = mesh->create_group("dp", all_of(4));
      c->barrier("begin");
      std::vector<char> data(3 << 20);
      if (rank == 2) {
        if (inside) c->start_all_reduce("x", buffer(data, DType::kF32), Reduce::kSum);
        for (int i = 0; inside && i < 3; ++i) c->progress();
        fall(shared, SIGSTOP, 3);
      }
      const int64_t begin = steady_ns(), no_core = no_core_ns();
      ++shared.count;
      const std::string text = failure_of([&] { c->all_reduce("x", buffer(data, DType::kF32)); });
      const int64_t ns = steady_ns() - begin - (no_core_ns() - no_core);
      expect(ns < 300'000'000 + kSoonNs, "heard after " + std::to_string(ns / 1'000'000) + " ms");
      return text;
    });
    for (const int rank : {0, 1, 3}) {
      const RankResult& r = results[static_cast<size_t>(rank)];
      EXPECT_FALSE(r.failed) << rank << ": " << r.text;
      EXPECT_NE(r.text.find("collective_timeout: all_reduce 'x' of group dp: "), std::string::npos)
          << r.text;
      EXPECT_NE(r.text.find("still waiting for rank 2 after 300 ms"), std::string::npos) << r.text;
    }
  }
}

TEST(Faults, AnOperationMayHaveADeadlineOfItsOwn) {
  const std::string rendezvous = unique_rendezvous();
  Shared& shared = shared_memory();
  const auto results = run_ranks(2, [&](int rank) -> std::string {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 2));  // a deadline of many seconds
    auto c = mesh->create_group("dp", all_of(2));
    c->barrier("begin");
    if (rank == 1) fall(shared, SIGSTOP, 1);
    c->set_timeout_ms(100);
    const Ticket ticket = c->start_barrier("x");
    c->set_timeout_ms(0);  // of what comes after it
    ++shared.count;
    return failure_of([&] { c->wait(ticket); });
  });
  EXPECT_FALSE(results[0].failed) << results[0].text;
  EXPECT_NE(results[0].text.find("still waiting for rank 1 after 100 ms"), std::string::npos)
      << results[0].text;
}

TEST(Faults, AnAbortFromAnotherThreadWakesEveryRank) {
  const std::string rendezvous = unique_rendezvous();
  Shared& shared = shared_memory();
  all_ranks(4, [&](int rank) {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 4));
    auto c = mesh->create_group("dp", all_of(4));
    c->barrier("begin");
    std::thread other;
    if (rank == 1) {
      other = std::thread([&] {
        while (shared.count < 4) std::this_thread::yield();
        shared.time_ns[0] = steady_ns();
        mesh->abort("the data ended");
        mesh->abort("twice is once");
      });
    }
    float x = 0;
    const int64_t no_core = no_core_ns();
    ++shared.count;
    const std::string text = failure_of([&] {
      c->receive("y", {&x, 1, DType::kF32}, (rank + 1) % 4);
    });
    const int64_t late = steady_ns() - shared.time_ns[0] - (no_core_ns() - no_core);
    if (other.joinable()) other.join();
    expect(late < kSoonNs, "heard after " + std::to_string(late / 1'000'000) + " ms");
    expect_contains(text, "receive 'y' of group dp: ");
    expect_contains(text, rank == 1 ? "interrupted: " : "peer_lost: ");
    expect_contains(text, rank == 1 ? "aborted here: the data ended"
                                    : "reports: rank 1 aborted: the data ended");
  });
}

TEST(Faults, AMeshIsRebuiltInTheSameProcess) {
  const std::string first = unique_rendezvous(), second = unique_rendezvous();
  Shared& shared = shared_memory();
  const auto results = run_ranks(4, [&](int rank) -> std::string {
    {
      auto mesh = connect_or_throw(options_for(first, rank, 4));
      auto c = mesh->create_group("dp", all_of(4));
      if (rank == 3) fall(shared, SIGKILL, 3);
      ++shared.count;
      expect_contains(failure_of([&] { c->barrier("x"); }), "rank 3 closed its connection");
    }
    auto mesh = connect_or_throw(options_for(second, rank, 3));
    auto c = mesh->create_group("dp", all_of(3));
    std::vector<float> x(100'000, static_cast<float>(rank));
    c->all_reduce("sum", {x.data(), 100'000, DType::kF32});
    expect(x == std::vector<float>(100'000, 3.0f), "the sum of the new mesh");
    return "";
  });
  for (const int rank : {0, 1, 2})
    EXPECT_FALSE(results[static_cast<size_t>(rank)].failed)
        << results[static_cast<size_t>(rank)].text;
}

TEST(Faults, RanksThatDisagreeAreToldBothOperations) {
  struct Case {
    Body one, two;
    std::string first, second;
  };
  static std::vector<char> a(400'000), b(400'000);
  const std::vector<int64_t> counts = {1, 1};
  const std::vector<Case> cases = {
      {[](Communicator& c) {
         c.all_reduce("sum", {a.data(), 5, DType::kF32});
       },
       [&](Communicator& c) {
         c.all_gather("parts", {b.data(), 1, DType::kF32}, {a.data(), 2, DType::kF32}, counts);
       },
       "all_reduce 'sum'", "all_gather 'parts'"},
      {[](Communicator& c) {
         c.all_reduce("sum", {a.data(), 100'000, DType::kF32});
       },
       [](Communicator& c) {
         c.all_reduce("sum", {a.data(), 50'000, DType::kF32});
       },
       "all_reduce 'sum' (400,000 bytes f32", "all_reduce 'sum' (200,000 bytes f32"},
      {[](Communicator& c) { c.barrier("a"); }, [](Communicator& c) { c.barrier("b"); },
       "barrier 'a'", "barrier 'b'"},
      {[](Communicator& c) {
         c.all_reduce("x", {a.data(), 9, DType::kF32});
       },
       [](Communicator& c) {
         c.all_reduce("x", {a.data(), 9, DType::kI32});
       },
       "bytes f32", "bytes i32"},
  };
  for (const Case& one : cases) {
    const std::string rendezvous = unique_rendezvous();
    all_ranks(2, [&](int rank) {
      auto mesh = connect_or_throw(options_for(rendezvous, rank, 2));
      auto c = mesh->create_group("dp", all_of(2));
      const std::string text = failure_of([&] { (rank == 0 ? one.one : one.two)(*c); });
      expect_contains(text, "failed: ");
      expect_contains(text, "the ranks call different operations");
      expect_contains(text, one.first);
      expect_contains(text, one.second);
    });
  }
}

TEST(Faults, ARankThatLeftInOrderIsMissedOnlyWhereItIsNeeded) {
  const std::string rendezvous = unique_rendezvous();
  all_ranks(3, [&](int rank) {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 3));
    auto c = mesh->create_group("all", all_of(3));
    auto pair = rank < 2 ? mesh->create_group("pair", {0, 1}) : nullptr;
    std::vector<float> x(200'000, 1.0f);
    c->all_reduce("sum", {x.data(), 200'000, DType::kF32});
    if (rank == 2) return;
    for (int i = 0; i < 200; ++i) pair->barrier("without the third");
    const std::string text = failure_of([&] {
      c->all_reduce("more", {x.data(), 200'000, DType::kF32});
    });
    expect_contains(text, "peer_lost: all_reduce 'more' of group all: ");
    expect_contains(text, "rank 2 has left the mesh");
  });
}

}  // namespace
}  // namespace dsv3::comm
