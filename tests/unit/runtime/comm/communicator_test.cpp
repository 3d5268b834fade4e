// Every operation of the communicator, at 1 to 5 ranks, against plain loops.
#include <gtest/gtest.h>

#include "tests/unit/runtime/comm/ranks.h"
#include "tests/unit/runtime/comm/values.h"

namespace dsv3::comm {
namespace {

// Around the thresholds of the algorithms (32 KiB, 64 KiB segments), odd, empty.
const std::vector<int64_t> kCounts = {0, 1, 2, 61, 1009, 8192, 8193, 65'537, 200'003};

std::string label(const char* what, DType dtype, int64_t count) {
  return std::string(what) + " of " + std::to_string(count) + " " + dtype_name(dtype);
}

// Uneven counts that add up to about `total`, some of them zero.
std::vector<int64_t> uneven(int64_t total, int size, int salt) {
  std::vector<int64_t> counts;
  for (int r = 0; r < size; ++r) {
    const uint64_t h = mix(static_cast<uint64_t>(r * 131 + salt));
    counts.push_back(h % 4 == 0 ? 0 : static_cast<int64_t>(h % static_cast<uint64_t>(total + 1)));
  }
  return counts;
}
int64_t sum(const std::vector<int64_t>& counts) {
  int64_t total = 0;
  for (const int64_t c : counts) total += c;
  return total;
}

class Worlds : public testing::TestWithParam<int> {
 protected:
  // Runs `body(communicator)` in every rank.
  void run(const std::function<void(Communicator&)>& body) {
    const int world = GetParam();
    const std::string rendezvous = unique_rendezvous();
    all_ranks(world, [&](int rank) {
      auto mesh = connect_or_throw(options_for(rendezvous, rank, world));
      auto group = mesh->create_group("all", all_of(world));
      body(*group);
    });
  }
};

TEST_P(Worlds, AllReduceAddsInTheOrderOfRanks) {
  run([](Communicator& c) {
    int salt = 0;
    for (const DType dtype : all_dtypes())
      for (const int64_t count : kCounts)
        for (const Reduce reduce : {Reduce::kSum, Reduce::kMax}) {
          if (reduce == Reduce::kMax && count > 10'000) continue;
          ++salt;
          std::vector<std::vector<char>> inputs;
          for (int r = 0; r < c.size(); ++r) inputs.push_back(values(dtype, count, r, salt));
          auto data = inputs[static_cast<size_t>(c.rank())];
          c.all_reduce("sum", buffer(data, dtype), reduce);
          expect(data == reduced(dtype, inputs, reduce), label("all_reduce", dtype, count));
        }
  });
}

TEST_P(Worlds, ReduceScatterGivesEachRankItsPiece) {
  run([](Communicator& c) {
    int salt = 100;
    for (const DType dtype : all_dtypes())
      for (const int64_t count : kCounts) {
        const auto counts = uneven(count, c.size(), ++salt);
        std::vector<std::vector<char>> inputs;
        for (int r = 0; r < c.size(); ++r) inputs.push_back(values(dtype, sum(counts), r, salt));
        const auto whole = reduced(dtype, inputs, Reduce::kSum);
        const auto& in = inputs[static_cast<size_t>(c.rank())];
        const size_t width = dtype_bytes(dtype);
        size_t begin = 0;
        for (int r = 0; r < c.rank(); ++r) begin += static_cast<size_t>(counts[r]) * width;
        const size_t bytes = static_cast<size_t>(counts[c.rank()]) * width;
        std::vector<char> out(bytes);
        c.reduce_scatter("scatter", const_buffer(in, dtype), buffer(out, dtype), counts);
        expect(out == std::vector<char>(whole.begin() + begin, whole.begin() + begin + bytes),
               label("reduce_scatter", dtype, count));
        // In place: the result is in's own part.
        auto own = in;
        Buffer part{own.data() + begin, counts[c.rank()], dtype};
        c.reduce_scatter("in place", const_buffer(own, dtype), part, counts);
        expect(std::equal(out.begin(), out.end(), own.begin() + begin),
               label("reduce_scatter in place", dtype, count));
      }
  });
}

TEST_P(Worlds, AllGatherPutsThePartsInOrder) {
  run([](Communicator& c) {
    int salt = 200;
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI64})
      for (const int64_t count : kCounts) {
        const auto counts = uneven(count, c.size(), ++salt);
        std::vector<char> expected, in;
        size_t begin = 0;
        for (int r = 0; r < c.size(); ++r) {
          const auto part = values(dtype, counts[r], r, salt);
          if (r == c.rank()) {
            in = part;
            begin = expected.size();
          }
          expected.insert(expected.end(), part.begin(), part.end());
        }
        std::vector<char> out(expected.size());
        c.all_gather("gather", const_buffer(in, dtype), buffer(out, dtype), counts);
        expect(out == expected, label("all_gather", dtype, count));
        std::vector<char> place(expected.size());
        std::copy(in.begin(), in.end(), place.begin() + static_cast<ptrdiff_t>(begin));
        c.all_gather("in place", {place.data() + begin, counts[c.rank()], dtype},
                     buffer(place, dtype), counts);
        expect(place == expected, label("all_gather in place", dtype, count));
      }
  });
}

TEST_P(Worlds, AllToAllExchangesUnevenParts) {
  run([](Communicator& c) {
    int salt = 300;
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kI32})
      for (const int64_t count : kCounts) {
        ++salt;
        std::vector<std::vector<int64_t>> counts;  // [from][to]
        for (int r = 0; r < c.size(); ++r)
          counts.push_back(uneven(count / c.size(), c.size(), salt * 7 + r));
        std::vector<char> in, expected;
        std::vector<int64_t> receive;
        for (int r = 0; r < c.size(); ++r) {
          const auto to = values(dtype, counts[c.rank()][r], c.rank() * 8 + r, salt);
          in.insert(in.end(), to.begin(), to.end());
          const auto from = values(dtype, counts[r][c.rank()], r * 8 + c.rank(), salt);
          expected.insert(expected.end(), from.begin(), from.end());
          receive.push_back(counts[r][c.rank()]);
        }
        std::vector<char> out(expected.size());
        c.all_to_all("exchange", const_buffer(in, dtype), counts[c.rank()], buffer(out, dtype),
                     receive);
        expect(out == expected, label("all_to_all", dtype, count));
      }
  });
}

TEST_P(Worlds, BroadcastComesFromAnyRoot) {
  run([](Communicator& c) {
    int salt = 400;
    for (int root = 0; root < c.size(); ++root)
      for (const DType dtype : {DType::kF32, DType::kBf16})
        for (const int64_t count : kCounts) {
          auto data = values(dtype, count, c.rank(), ++salt);
          c.broadcast("weights", buffer(data, dtype), root);
          expect(data == values(dtype, count, root, salt), label("broadcast", dtype, count));
        }
  });
}

TEST_P(Worlds, MessagesPassRoundARing) {
  run([](Communicator& c) {
    if (c.size() == 1) return;
    const int next = (c.rank() + 1) % c.size();
    const int previous = (c.rank() + c.size() - 1) % c.size();
    for (const int64_t count : kCounts) {
      const auto out = values(DType::kF32, count, c.rank(), 500);
      std::vector<char> in(out.size());
      const Ticket receive = c.start_receive("from before", buffer(in, DType::kF32), previous);
      c.send("to next", const_buffer(out, DType::kF32), next);
      c.wait(receive);
      expect(in == values(DType::kF32, count, previous, 500), label("message", DType::kF32, count));
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, Worlds, testing::Values(1, 2, 3, 4, 5));

}  // namespace
}  // namespace dsv3::comm
