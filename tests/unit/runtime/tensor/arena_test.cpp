// The arena: names are booked exactly, marks release in order, a repeated step allocates nothing,
// and every byte comes back.
#include "runtime/tensor/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::tensor {
namespace {

// Counts what the device has given out.
class CountingBackend final : public reference::ReferenceBackend {
 public:
  CountingBackend(int64_t* held, int64_t* held_host) : held_(held), held_host_(held_host) {}
  void* allocate(size_t bytes) override {
    void* data = ReferenceBackend::allocate(bytes);
    sizes_[data] = static_cast<int64_t>(bytes);
    *held_ += static_cast<int64_t>(bytes);
    return data;
  }
  void deallocate(void* data) override {
    *held_ -= sizes_.at(data);
    sizes_.erase(data);
    ReferenceBackend::deallocate(data);
  }
  void* allocate_host(size_t bytes) override {
    *held_host_ += static_cast<int64_t>(bytes);
    return ReferenceBackend::allocate(bytes);
  }
  void deallocate_host(void* data) override {
    *held_host_ = 0;
    ReferenceBackend::deallocate(data);
  }

 private:
  int64_t *held_, *held_host_;
  std::map<void*, int64_t> sizes_;
};

struct ArenaTest : testing::Test {
  int64_t held = 0, held_host = 0;
  device::Device device{"counting", std::make_unique<CountingBackend>(&held, &held_host)};
};

TEST_F(ArenaTest, PersistentMemoryIsZeroAlignedAndBooked) {
  Arena arena(device);
  const Tensor weights = arena.persistent("weights", DType::kF32, {3, 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights.data) % 64, 0u);
  for (int i = 0; i < 15; ++i) EXPECT_EQ(weights.as<float>()[i], 0.0f);
  EXPECT_EQ(arena.ledger().peak_bytes("weights"), 64);  // 60 bytes, rounded up to 64
  EXPECT_EQ(held, 64);
}

TEST_F(ArenaTest, WhatLivesInHostMemoryIsBookedButNotTakenFromTheDevice) {
  {
    Arena arena(device);
    const Tensor moments =
        arena.persistent("host/optimizer/exp_avg", DType::kF32, {32}, Home::kHost);
    for (int i = 0; i < 32; ++i) EXPECT_EQ(moments.as<float>()[i], 0.0f);
    EXPECT_EQ(arena.ledger().peak_bytes("host/optimizer/exp_avg"), 128);
    EXPECT_EQ(arena.held_bytes(), 0);
    EXPECT_EQ(held, 0);
    EXPECT_EQ(held_host, 128);
  }
  EXPECT_EQ(held_host, 0);
}

TEST_F(ArenaTest, MarksReleaseWhatWasPushedSince) {
  Arena arena(device);
  const Tensor below = arena.push("a", DType::kF32, {16});
  const size_t mark = arena.mark();
  const Tensor first = arena.push("b", DType::kF32, {32});
  arena.push("a", DType::kBf16, {32});
  EXPECT_EQ(arena.ledger().current_bytes(), 64 + 128 + 64);
  arena.release(mark);
  EXPECT_EQ(arena.ledger().current_bytes(), 64);
  EXPECT_EQ(arena.push("b", DType::kF32, {1}).data, first.data);  // the same place again
  EXPECT_NE(first.data, below.data);
}

TEST_F(ArenaTest, PeaksArePerNameAndOfTheSum) {
  Arena arena(device);
  {
    const Scope scope(arena);
    arena.push("activations/q", DType::kF32, {64});
    arena.push("activations/q", DType::kF32, {64});
  }
  {
    const Scope scope(arena);
    arena.push("activations/kv", DType::kF32, {48});
  }
  EXPECT_EQ(arena.ledger().peak_bytes("activations/q"), 512);
  EXPECT_EQ(arena.ledger().peak_bytes("activations/kv"), 192);
  EXPECT_EQ(arena.ledger().peak_bytes("activations/"), 704);
  EXPECT_EQ(arena.ledger().peak_bytes(), 512);  // they were never there together
  EXPECT_EQ(arena.ledger().current_bytes(), 0);
}

// A step: pushes of growing size at several depths, far beyond one chunk.
void run_step(Arena& arena) {
  const Scope scope(arena);
  for (int64_t i = 1; i <= 40; ++i) {
    arena.push("activations", DType::kF32, {i * 40'000});
    const Scope inner(arena);
    arena.push("scratch", DType::kF32, {(41 - i) * 100'000});
  }
}

TEST_F(ArenaTest, AStepOfTheSameShapesAllocatesNothingMore) {
  Arena arena(device);
  run_step(arena);
  EXPECT_GT(arena.num_allocations(), 1);
  arena.compact();
  EXPECT_EQ(arena.held_bytes(), arena.ledger().peak_bytes());  // one block, no waste
  const int64_t allocations = arena.num_allocations();
  run_step(arena);
  run_step(arena);
  arena.compact();
  EXPECT_EQ(arena.num_allocations(), allocations);
  EXPECT_EQ(held, arena.held_bytes());
}

TEST_F(ArenaTest, PushesOfDifferentChunksDoNotOverlap) {
  Arena arena(device);
  const int64_t n = 3'000'000;  // 12 MB each: a chunk holds one
  float* data[4];
  for (int i = 0; i < 4; ++i) {
    data[i] = arena.push("x", DType::kF32, {n}).as<float>();
    std::fill(data[i], data[i] + n, static_cast<float>(i));
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(data[i][0], static_cast<float>(i));
    EXPECT_EQ(data[i][n - 1], static_cast<float>(i));
  }
}

// What came first leaves first: the second micro-batch's memory stays where it is.
TEST_F(ArenaTest, StacksAreReleasedInAnyOrder) {
  Arena arena(device);
  const auto step = [&arena] {
    std::vector<float*> data;
    for (size_t stack = Arena::kMain; stack < Arena::kMain + 3; ++stack) {
      const OnStack on(arena, stack);
      data.push_back(arena.push("activations", DType::kF32, {1000}).as<float>());
      std::fill(data.back(), data.back() + 1000, static_cast<float>(stack));
    }
    for (size_t stack = Arena::kMain; stack < Arena::kMain + 3; ++stack) {
      const OnStack on(arena, stack);
      EXPECT_EQ(arena.mark(), 1u);
      EXPECT_EQ(data[stack - Arena::kMain][999], static_cast<float>(stack));
      arena.release(0);
    }
    EXPECT_EQ(arena.mark(), 0u);  // of the main stack, which is selected again
  };
  step();
  EXPECT_EQ(arena.ledger().peak_bytes("activations"), 3 * 4032);
  EXPECT_EQ(arena.ledger().current_bytes(), 0);
  arena.compact();
  EXPECT_EQ(arena.held_bytes(), 3 * 4032);  // each is one block, no waste
  const int64_t allocations = arena.num_allocations();
  step();
  arena.compact();
  EXPECT_EQ(arena.num_allocations(), allocations);
}

TEST_F(ArenaTest, WhatLiesAsideGoesBeforeWhatWasPushedAfterIt) {
  Arena arena(device);
  Tensor kept;
  {
    const AsideScope scope(arena);
    const OnStack aside(arena, Arena::kAside);
    arena.push("transient", DType::kF32, {16});
    const OnStack main(arena, Arena::kMain);
    kept = arena.push("activations", DType::kF32, {16});
    EXPECT_EQ(arena.ledger().current_bytes(), 128);
  }
  EXPECT_EQ(arena.ledger().current_bytes(), 64);
  EXPECT_EQ(arena.mark(), 1u);
  kept.as<float>()[15] = 1;
}

TEST_F(ArenaTest, TheWorkspaceGrowsAndIsBooked) {
  Arena arena(device);
  const ops::Context context = arena.context();
  std::byte* small = context.workspace->reserve(100);
  EXPECT_EQ(context.workspace->reserve(64), small);
  EXPECT_EQ(arena.ledger().peak_bytes("workspace"), 128);
  context.workspace->reserve(1000);
  EXPECT_EQ(arena.ledger().peak_bytes("workspace"), 1024);
  EXPECT_EQ(held, 1024);
}

TEST_F(ArenaTest, EmptyTensorsHaveAPlace) {
  Arena arena(device);
  EXPECT_FALSE(arena.push("empty", DType::kF32, {0, 7}).empty());
  EXPECT_EQ(arena.persistent("nothing", DType::kF32, {0}).num_elements(), 0);
}

TEST_F(ArenaTest, EverythingComesBack) {
  {
    Arena arena(device);
    arena.persistent("weights", DType::kF32, {1000});
    run_step(arena);
    arena.context().workspace->reserve(12345);
    EXPECT_GT(held, 0);
  }
  EXPECT_EQ(held, 0);
}

}  // namespace
}  // namespace dsv3::tensor
