// Several operations under way at once, groups that share ranks, and other transports and speeds.
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>

#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/comm/values.h"

namespace dsv3::comm {
namespace {

// Starts `num` all_reduces, calls progress() between, checks them all.
void check_bucketed_sums(Communicator& c, int num, int64_t count, int salt) {
  std::vector<std::vector<char>> data, expected;
  std::vector<Ticket> tickets;
  for (int b = 0; b < num; ++b) {
    std::vector<std::vector<char>> inputs;
    for (int r = 0; r < c.size(); ++r) inputs.push_back(values(DType::kF32, count, r, salt + b));
    expected.push_back(reduced(DType::kF32, inputs, Reduce::kSum));
    data.push_back(inputs[static_cast<size_t>(c.rank())]);
  }
  for (int b = 0; b < num; ++b) {
    tickets.push_back(c.start_all_reduce("gradients/" + std::to_string(b),
                                         buffer(data[static_cast<size_t>(b)], DType::kF32),
                                         Reduce::kSum));
    c.progress();
  }
  c.wait(tickets[0]);
  expect(c.is_done(tickets[0]), "the first is done");
  c.wait_all();
  expect(c.progress(), "nothing is outstanding");
  expect(data == expected, "the sums of overlapping all_reduces");
}

TEST(Overlap, OperationsTakeEffectInTheirOrder) {
  const std::string rendezvous = unique_rendezvous();
  all_ranks(3, [&](int rank) {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 3));
    auto c = mesh->create_group("dp", all_of(3));
    check_bucketed_sums(*c, 6, 60'000, 0);
    // Each operation reads what the one before it wrote.
    std::vector<float> x = {static_cast<float>(rank + 1)};
    std::vector<float> all(3);
    const std::vector<int64_t> ones = {1, 1, 1};
    c->start_all_reduce("sum", {x.data(), 1, DType::kF32}, Reduce::kSum);
    c->start_all_gather("gather", {x.data(), 1, DType::kF32}, {all.data(), 3, DType::kF32}, ones);
    c->start_broadcast("zero", {x.data(), 1, DType::kF32}, 1);
    c->wait_all();
    expect(all == std::vector<float>({6, 6, 6}), "the gathered sums");
  });
}

// Rank 0 starts three while its peer isn't there, then does nothing until the peer has them all:
// what leaves is not held up by what hasn't come.
TEST(Overlap, AllToAllsMoveAtTheSameTime) {
  constexpr size_t kExchanges = 3;
  const std::string rendezvous = unique_rendezvous();
  int started[2], arrived[2];
  ASSERT_EQ(pipe(started), 0);
  ASSERT_EQ(pipe(arrived), 0);
  all_ranks(2, [&](int rank) {
    const auto tell = [](const int* end) { expect(write(end[1], "x", 1) == 1, "pipe"); };
    const auto hear = [](const int* end) {
      pollfd fd{end[0], POLLIN, 0};
      char byte = 0;
      expect(poll(&fd, 1, 10'000) == 1 && read(end[0], &byte, 1) == 1, "the peer got nothing");
    };
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 2));
    auto c = mesh->create_group("ep", all_of(2));
    const std::vector<int64_t> counts = {1, 1};
    std::array<std::vector<float>, kExchanges> in, out;
    if (rank == 1) hear(started);
    for (size_t i = 0; i < kExchanges; ++i) {
      const auto base = static_cast<float>(10 * i);
      in[i] = {base + static_cast<float>(2 * rank), base + static_cast<float>(2 * rank + 1)};
      out[i] = {-1, -1};
      c->start_all_to_all("rows", {in[i].data(), 2, DType::kF32}, counts,
                          {out[i].data(), 2, DType::kF32}, counts);
    }
    if (rank == 0) {
      tell(started);
      hear(arrived);
    }
    c->wait_all();
    if (rank == 1) tell(arrived);
    for (size_t i = 0; i < kExchanges; ++i) {
      const auto mine = static_cast<float>(10 * i + static_cast<size_t>(rank));
      expect(out[i] == std::vector<float>({mine, mine + 2}), "what came");
    }
  });
  for (const int fd : {started[0], started[1], arrived[0], arrived[1]}) close(fd);
}

TEST(Overlap, GroupsThatShareRanksDoNotHoldUpEachOther) {
  const std::string rendezvous = unique_rendezvous();
  all_ranks(4, [&](int rank) {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 4));
    auto everyone = mesh->create_group("world", all_of(4));
    auto row =
        mesh->create_group("row", rank < 2 ? std::vector<int>{0, 1} : std::vector<int>{2, 3});
    auto column = mesh->create_group(
        "column", rank % 2 == 0 ? std::vector<int>{0, 2} : std::vector<int>{1, 3});
    expect(row->rank() == rank % 2 && column->rank() == rank / 2, "ranks in the groups");
    for (int round = 0; round < 3; ++round) {
      // 4 MB are more than the sockets hold: the column's sum needs rank's help while it waits in
      // the row, in opposite orders on the two rows.
      auto data = values(DType::kF32, 1'000'000, rank, round);
      std::vector<std::vector<char>> inputs;
      for (const int r : {rank % 2, rank % 2 + 2})
        inputs.push_back(values(DType::kF32, 1'000'000, r, round));
      const Ticket sum =
          column->start_all_reduce("column", buffer(data, DType::kF32), Reduce::kSum);
      if (rank < 2) column->wait(sum);
      check_bucketed_sums(*row, 2, 30'000, 10 * round + 1000 * (rank / 2));
      column->wait(sum);
      expect(data == reduced(DType::kF32, inputs, Reduce::kSum), "the column's sum");
      everyone->barrier("round");
    }
    row.reset();
    auto again =
        mesh->create_group("row", rank < 2 ? std::vector<int>{0, 1} : std::vector<int>{2, 3});
    check_bucketed_sums(*again, 1, 1000, 7);
  });
}

TEST(Overlap, MessagesWithDifferentPeersDoNotWaitForEachOther) {
  const std::string rendezvous = unique_rendezvous();
  all_ranks(3, [&](int rank) {
    auto mesh = connect_or_throw(options_for(rendezvous, rank, 3));
    auto c = mesh->create_group("pp", all_of(3));
    auto first = values(DType::kBf16, 700'001, rank, 1);
    std::vector<char> in(first.size());
    if (rank == 0) {
      // Rank 1 sends only after rank 2 has heard from rank 0, which is started later.
      std::vector<char> more(first.size());
      const Ticket a = c->start_receive("late", buffer(in, DType::kBf16), 1);
      const Ticket b = c->start_send("early", const_buffer(first, DType::kBf16), 2);
      const Ticket d = c->start_receive("later", buffer(more, DType::kBf16), 1);
      c->wait(b);
      c->wait(a);
      c->wait(d);
      expect(in == values(DType::kBf16, 700'001, 1, 1), "the first message of rank 1");
      expect(more == values(DType::kBf16, 700'001, 1, 2), "the second message of rank 1");
    } else if (rank == 2) {
      c->receive("early", buffer(in, DType::kBf16), 0);
      expect(in == values(DType::kBf16, 700'001, 0, 1), "the message of rank 0");
      c->send("go", {in.data(), 1, DType::kBf16}, 1);
    } else {
      c->receive("go", {in.data(), 1, DType::kBf16}, 2);
      const auto second = values(DType::kBf16, 700'001, 1, 2);
      c->start_send("late", const_buffer(first, DType::kBf16), 0);
      c->start_send("later", const_buffer(second, DType::kBf16), 0);
      c->wait_all();
    }
    c->barrier("end");
    expect(c->traffic().operations == (rank == 0 ? 4 : rank == 2 ? 3 : 4), "operations counted");
    if (rank == 0) expect(c->traffic().bytes_sent == 1'400'002, "bytes counted");
  });
}

TEST(Overlap, SeveralMegabytesOverEveryTransport) {
  for (const char* transport : {"auto", "tcp"}) {
    const std::string rendezvous = "tcp:127.0.0.1:" + std::to_string(free_port());
    all_ranks(3, [&](int rank) {
      MeshOptions options = options_for(rendezvous, rank, 3);
      options.transport = transport;
      auto mesh = connect_or_throw(options);
      auto c = mesh->create_group("dp", all_of(3));
      check_bucketed_sums(*c, 3, 11, 0);
      check_bucketed_sums(*c, 2, 900'001, 5);
      c->barrier("end");
    });
  }
}

}  // namespace
}  // namespace dsv3::comm
