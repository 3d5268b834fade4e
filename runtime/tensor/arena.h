// Arena: all memory of one device, taken under names.
//
// Laws: (1) nothing else in the runtime calls Backend::allocate…, so the ledger is the whole truth.
// (2) What lives for the run (weights, gradients, moments) is `persistent`; what lives for a step
// is pushed on a stack and released by marks, in reverse order. (3) A stack grows in the first
// step; compact() then makes it one block of the height that was reached, and a step of the same
// shapes allocates nothing more (num_allocations() does not move).
// There are several stacks, independent of each other: of a pipeline's micro-batches the first that
// comes is the first to leave, so each has one of its own; what is dropped before something that
// was pushed after it lies aside. push(), mark() and release() are of the stack that is selected.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/ops/backend.h"
#include "runtime/device/device.h"
#include "runtime/tensor/ledger.h"
#include "runtime/tensor/tensor.h"

namespace dsv3::tensor {

// Whose memory something lies in; the device's ops reach both.
enum class Home : uint8_t { kDevice, kHost };

// Not thread-safe: one arena, one stream. Every function that allocates throws
// Failure(kOutOfMemory) when the device is full.
class Arena final : private ops::Workspace {
 public:
  explicit Arena(device::Device& device);
  ~Arena() override;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Zeroed memory until the arena dies. 64-byte aligned, as everything here.
  Tensor persistent(std::string_view name, DType dtype, Shape shape, Home home = Home::kDevice);
  // Uninitialised memory until the mark below it is released.
  Tensor push(std::string_view name, DType dtype, Shape shape);

  // Numbers of stacks. kMain is selected at first; kAside is for what doesn't last as long as its
  // neighbours on the stack in use; a pipeline's micro-batches have kMain and those above.
  static constexpr size_t kAside = 0;
  static constexpr size_t kMain = 1;
  // Makes the stack on first use; gives the one that was selected (OnStack does both).
  size_t select(size_t stack);

  // Height of the stack: how many of its pushes are alive.
  size_t mark() const { return stacks_[selected_].pushes.size(); }
  // Releases every push after the mark was taken.
  void release(size_t mark);
  // Makes every stack one block of the largest height that it had. Requires empty stacks.
  // Idempotent.
  void compact();

  // What ops run with: this device, its stream, this arena's workspace.
  ops::Context context() { return {&device_.backend(), device_.stream(), this}; }
  device::Device& device() { return device_; }
  const Ledger& ledger() const { return ledger_; }
  // Calls of Backend::allocate so far.
  int64_t num_allocations() const { return num_allocations_; }
  // Bytes held from the device now: the ledger's current bytes plus the stacks' unused parts.
  int64_t held_bytes() const { return held_bytes_; }

 private:
  struct Chunk {
    std::byte* data;
    int64_t bytes;
    int64_t used;
  };
  struct Push {
    int entry;
    int64_t bytes;
    size_t chunk;
  };
  struct Stack {
    std::vector<Chunk> chunks;  // its memory, in order
    size_t top_chunk = 0;
    std::vector<Push> pushes;
    int64_t height_bytes = 0;
    int64_t height_bytes_peak = 0;
  };

  std::byte* reserve(size_t bytes) override;  // the workspace: ledger name "workspace"
  struct Block {
    void* data;
    int64_t bytes;
    Home home;
  };
  std::byte* take(int64_t bytes, Home home = Home::kDevice);
  void give_back(const Block& block);
  std::byte* bump(Stack& stack, int64_t bytes);
  void compact(Stack& stack);

  device::Device& device_;
  Ledger ledger_;
  std::vector<Block> blocks_;  // persistent
  std::vector<Stack> stacks_{kMain + 1};
  size_t selected_ = kMain;
  std::byte* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  int64_t num_allocations_ = 0;
  int64_t held_bytes_ = 0;
};

// Releases, when it goes out of scope, everything pushed since it was made.
class Scope {
 public:
  explicit Scope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~Scope() { arena_.release(mark_); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  Arena& arena_;
  size_t mark_;
};

// While it lives `stack` is the selected one. What is pushed stays.
class OnStack {
 public:
  OnStack(Arena& arena, size_t stack) : arena_(arena), before_(arena.select(stack)) {}
  ~OnStack() { arena_.select(before_); }
  OnStack(const OnStack&) = delete;
  OnStack& operator=(const OnStack&) = delete;

 private:
  Arena& arena_;
  size_t before_;
};

// Releases, when it goes out of scope, everything pushed aside since it was made.
class AsideScope {
 public:
  explicit AsideScope(Arena& arena) : arena_(arena) {
    const OnStack aside(arena, Arena::kAside);
    mark_ = arena.mark();
  }
  ~AsideScope() {
    const OnStack aside(arena_, Arena::kAside);
    arena_.release(mark_);
  }
  AsideScope(const AsideScope&) = delete;
  AsideScope& operator=(const AsideScope&) = delete;

 private:
  Arena& arena_;
  size_t mark_;
};

}  // namespace dsv3::tensor
