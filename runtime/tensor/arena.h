// Arena: all memory of one device, taken under names.
//
// Laws: (1) nothing else in the runtime calls Backend::allocate, so the ledger is the whole truth.
// (2) What lives for the run (weights, gradients, moments) is `persistent`; what lives for a step
// is pushed on a stack and released by marks, in reverse order. (3) The stack grows in the first
// step; compact() then makes it one block of the height that was reached, and a step of the same
// shapes allocates nothing more (num_allocations() does not move).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/ops/backend.h"
#include "runtime/device/device.h"
#include "runtime/tensor/ledger.h"
#include "runtime/tensor/tensor.h"

namespace dsv3::tensor {

// Not thread-safe: one arena, one stream. Every function that allocates throws
// Failure(kOutOfMemory) when the device is full.
class Arena final : private ops::Workspace {
 public:
  explicit Arena(device::Device& device);
  ~Arena() override;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Zeroed memory until the arena dies. 64-byte aligned, as everything here.
  Tensor persistent(std::string_view name, DType dtype, Shape shape);
  // Uninitialised memory until the mark below it is released.
  Tensor push(std::string_view name, DType dtype, Shape shape);

  // Height of the stack: how many pushes are alive.
  size_t mark() const { return stack_.size(); }
  // Releases every push after the mark was taken.
  void release(size_t mark);
  // Makes the stack one block of the largest height so far. Requires an empty stack. Idempotent.
  void compact();

  // What ops run with: this device, its stream, this arena's workspace.
  ops::Context context() { return {&device_.backend(), device_.stream(), this}; }
  device::Device& device() { return device_; }
  const Ledger& ledger() const { return ledger_; }
  // Calls of Backend::allocate so far.
  int64_t num_allocations() const { return num_allocations_; }
  // Bytes held from the device now: the ledger's current bytes plus the stack's unused part.
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

  std::byte* reserve(size_t bytes) override;  // the workspace: ledger name "workspace"
  std::byte* take(int64_t bytes);
  void give_back(void* data, int64_t bytes);
  std::byte* bump(int64_t bytes);

  device::Device& device_;
  Ledger ledger_;
  std::vector<std::pair<void*, int64_t>> blocks_;  // persistent
  std::vector<Chunk> chunks_;                      // the stack's memory, in order
  size_t top_chunk_ = 0;
  std::vector<Push> stack_;
  int64_t height_bytes_ = 0;
  int64_t height_bytes_peak_ = 0;
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

}  // namespace dsv3::tensor
