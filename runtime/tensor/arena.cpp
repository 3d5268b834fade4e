// The arena's blocks, stack and workspace; see arena.h.
#include "runtime/tensor/arena.h"

#include <algorithm>

namespace dsv3::tensor {
namespace {

constexpr int64_t kAlignBytes = 64;
// Chunks of the growing stack; compact() removes what rounding up to them wasted.
constexpr int64_t kChunkBytesMin = int64_t{16} << 20;

int64_t rounded(int64_t bytes) {
  return (bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

}  // namespace

Arena::Arena(device::Device& device) : device_(device) {}

Arena::~Arena() {
  for (const auto& [data, bytes] : blocks_) give_back(data, bytes);
  for (const Chunk& chunk : chunks_) give_back(chunk.data, chunk.bytes);
  if (workspace_) give_back(workspace_, workspace_bytes_);
}

std::byte* Arena::take(int64_t bytes) {
  auto* data = static_cast<std::byte*>(device_.backend().allocate(static_cast<size_t>(bytes)));
  ++num_allocations_;
  held_bytes_ += bytes;
  return data;
}

void Arena::give_back(void* data, int64_t bytes) {
  device_.backend().deallocate(data);
  held_bytes_ -= bytes;
}

Tensor Arena::persistent(std::string_view name, DType dtype, Shape shape) {
  Tensor tensor{nullptr, dtype, shape};
  const int64_t bytes = rounded(std::max<int64_t>(tensor.bytes(), 1));
  tensor.data = take(bytes);
  blocks_.emplace_back(tensor.data, bytes);
  device_.backend().fill_zero(tensor.data, static_cast<size_t>(bytes), device_.stream());
  ledger_.add(ledger_.index(name), bytes);
  return tensor;
}

Tensor Arena::push(std::string_view name, DType dtype, Shape shape) {
  Tensor tensor{nullptr, dtype, shape};
  const int64_t bytes = rounded(std::max<int64_t>(tensor.bytes(), 1));
  tensor.data = bump(bytes);
  const int entry = ledger_.index(name);
  ledger_.add(entry, bytes);
  stack_.push_back({entry, bytes, top_chunk_});
  height_bytes_ += bytes;
  height_bytes_peak_ = std::max(height_bytes_peak_, height_bytes_);
  return tensor;
}

std::byte* Arena::bump(int64_t bytes) {
  // Chunks above the top are empty: take the first with room; a smaller one between is left out
  // until the stack falls back.
  for (size_t i = top_chunk_; i < chunks_.size(); ++i) {
    Chunk& chunk = chunks_[i];
    if (chunk.bytes - chunk.used < bytes) continue;
    top_chunk_ = i;
    std::byte* data = chunk.data + chunk.used;
    chunk.used += bytes;
    return data;
  }
  const int64_t chunk_bytes = std::max(bytes, kChunkBytesMin);
  chunks_.push_back({take(chunk_bytes), chunk_bytes, bytes});
  top_chunk_ = chunks_.size() - 1;
  return chunks_.back().data;
}

void Arena::release(size_t mark) {
  DSV3_CHECK(mark <= stack_.size());
  while (stack_.size() > mark) {
    const Push& push = stack_.back();
    ledger_.subtract(push.entry, push.bytes);
    chunks_[push.chunk].used -= push.bytes;
    height_bytes_ -= push.bytes;
    stack_.pop_back();
    top_chunk_ = stack_.empty() ? 0 : stack_.back().chunk;
  }
}

void Arena::compact() {
  DSV3_CHECK(stack_.empty(), "the arena's stack must be empty");
  if (chunks_.empty() || (chunks_.size() == 1 && chunks_[0].bytes == height_bytes_peak_)) return;
  device_.synchronize();  // queued work may still use the old chunks
  for (const Chunk& chunk : chunks_) give_back(chunk.data, chunk.bytes);
  chunks_.clear();
  chunks_.push_back({take(height_bytes_peak_), height_bytes_peak_, 0});
  top_chunk_ = 0;
}

std::byte* Arena::reserve(size_t bytes) {
  const int64_t wanted = rounded(static_cast<int64_t>(std::max<size_t>(bytes, 1)));
  if (wanted <= workspace_bytes_) return workspace_;
  const int entry = ledger_.index("workspace");
  if (workspace_) {
    device_.synchronize();
    give_back(workspace_, workspace_bytes_);
    ledger_.subtract(entry, workspace_bytes_);
    workspace_ = nullptr;
    workspace_bytes_ = 0;
  }
  workspace_ = take(wanted);
  workspace_bytes_ = wanted;
  ledger_.add(entry, wanted);
  return workspace_;
}

}  // namespace dsv3::tensor
