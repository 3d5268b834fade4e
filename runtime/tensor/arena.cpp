// The arena's blocks, stack and workspace; see arena.h.
#include "runtime/tensor/arena.h"

#include <algorithm>
#include <utility>

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
  for (const Block& block : blocks_) give_back(block);
  for (const Stack& stack : stacks_)
    for (const Chunk& chunk : stack.chunks) give_back({chunk.data, chunk.bytes, Home::kDevice});
  if (workspace_) give_back({workspace_, workspace_bytes_, Home::kDevice});
}

std::byte* Arena::take(int64_t bytes, Home home) {
  ops::Backend& backend = device_.backend();
  const auto size = static_cast<size_t>(bytes);
  void* data = home == Home::kHost ? backend.allocate_host(size) : backend.allocate(size);
  ++num_allocations_;
  if (home == Home::kDevice) held_bytes_ += bytes;
  return static_cast<std::byte*>(data);
}

void Arena::give_back(const Block& block) {
  if (block.home == Home::kHost) {
    device_.backend().deallocate_host(block.data);
    return;
  }
  device_.backend().deallocate(block.data);
  held_bytes_ -= block.bytes;
}

Tensor Arena::persistent(std::string_view name, DType dtype, Shape shape, Home home) {
  Tensor tensor{nullptr, dtype, shape};
  const int64_t bytes = rounded(std::max<int64_t>(tensor.bytes(), 1));
  tensor.data = take(bytes, home);
  blocks_.push_back({tensor.data, bytes, home});
  device_.backend().fill_zero(tensor.data, static_cast<size_t>(bytes), device_.stream());
  ledger_.add(ledger_.index(name), bytes);
  return tensor;
}

size_t Arena::select(size_t stack) {
  if (stack >= stacks_.size()) stacks_.resize(stack + 1);
  return std::exchange(selected_, stack);
}

Tensor Arena::push(std::string_view name, DType dtype, Shape shape) {
  Stack& stack = stacks_[selected_];
  Tensor tensor{nullptr, dtype, shape};
  const int64_t bytes = rounded(std::max<int64_t>(tensor.bytes(), 1));
  tensor.data = bump(stack, bytes);
  const int entry = ledger_.index(name);
  ledger_.add(entry, bytes);
  stack.pushes.push_back({entry, bytes, stack.top_chunk});
  stack.height_bytes += bytes;
  stack.height_bytes_peak = std::max(stack.height_bytes_peak, stack.height_bytes);
  return tensor;
}

std::byte* Arena::bump(Stack& stack, int64_t bytes) {
  // Chunks above the top are empty: take the first with room; a smaller one between is left out
  // until the stack falls back.
  for (size_t i = stack.top_chunk; i < stack.chunks.size(); ++i) {
    Chunk& chunk = stack.chunks[i];
    if (chunk.bytes - chunk.used < bytes) continue;
    stack.top_chunk = i;
    std::byte* data = chunk.data + chunk.used;
    chunk.used += bytes;
    return data;
  }
  const int64_t chunk_bytes = std::max(bytes, kChunkBytesMin);
  stack.chunks.push_back({take(chunk_bytes), chunk_bytes, bytes});
  stack.top_chunk = stack.chunks.size() - 1;
  return stack.chunks.back().data;
}

void Arena::release(size_t mark) {
  Stack& stack = stacks_[selected_];
  DSV3_CHECK(mark <= stack.pushes.size());
  while (stack.pushes.size() > mark) {
    const Push& push = stack.pushes.back();
    ledger_.subtract(push.entry, push.bytes);
    stack.chunks[push.chunk].used -= push.bytes;
    stack.height_bytes -= push.bytes;
    stack.pushes.pop_back();
    stack.top_chunk = stack.pushes.empty() ? 0 : stack.pushes.back().chunk;
  }
}

void Arena::compact() {
  for (Stack& stack : stacks_) compact(stack);
}

void Arena::compact(Stack& stack) {
  DSV3_CHECK(stack.pushes.empty(), "the arena's stacks must be empty");
  std::vector<Chunk>& chunks = stack.chunks;
  const int64_t bytes = stack.height_bytes_peak;
  if (chunks.empty() || (chunks.size() == 1 && chunks[0].bytes == bytes)) return;
  device_.synchronize();  // queued work may still use the old chunks
  for (const Chunk& chunk : chunks) give_back({chunk.data, chunk.bytes, Home::kDevice});
  chunks.clear();
  chunks.push_back({take(bytes), bytes, 0});
  stack.top_chunk = 0;
}

std::byte* Arena::reserve(size_t bytes) {
  const int64_t wanted = rounded(static_cast<int64_t>(std::max<size_t>(bytes, 1)));
  if (wanted <= workspace_bytes_) return workspace_;
  const int entry = ledger_.index("workspace");
  if (workspace_) {
    device_.synchronize();
    give_back({workspace_, workspace_bytes_, Home::kDevice});
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
