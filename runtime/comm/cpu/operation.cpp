// What all operations share, and those that only move memory: exchanges, small all_reduces,
// broadcasts.
#include "runtime/comm/cpu/operation.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/comm/cpu/fold.h"

namespace dsv3::comm {
namespace {

constexpr int64_t kCopyBytes = 256 << 10;  // of one advance()

}  // namespace

std::vector<int> Operation::holdups() const {
  std::vector<int> peers;
  for (const Flow& f : flows)
    if (f.sends() || f.receives()) peers.push_back(f.peer);
  return peers;
}

std::vector<int> Operation::slowest() const {
  int64_t least = -1;
  for (const Flow& f : flows)
    if (f.receives() && (least < 0 || f.received < least)) least = f.received;
  std::vector<int> peers;
  for (const Flow& f : flows)
    if (f.receives() && f.received == least) peers.push_back(f.peer);
  return peers.empty() ? Operation::holdups() : peers;
}

bool Operation::done() const {
  for (const Flow& f : flows)
    if (f.sends() || f.receives()) return false;
  return own_part_done();
}

std::string Operation::text() const {
  const char* what = kind == OpKind::kMessage && receiving ? "receive" : kind_name(kind);
  return std::string(what) + " '" + name + "'";
}

void Operation::reset(size_t n) {
  flows.resize(n);
  std::fill(flows.begin(), flows.end(), Flow{});
  deadline_ns = 0;
  receiving = false;
}

std::byte* Operation::staging(int64_t bytes) {
  if (bytes > staging_bytes_) {
    staging_.reset(new std::byte[static_cast<size_t>(bytes)]);  // not cleared
    staging_bytes_ = bytes;
  }
  return staging_.get();
}

void Exchange::set_own(const std::byte* from, std::byte* to, int64_t bytes) {
  own_from_ = from;
  own_to_ = to;
  own_bytes_ = from == to ? 0 : bytes;
  own_copied_ = 0;
}

bool Exchange::advance() {
  const int64_t n = std::min(kCopyBytes, own_bytes_ - own_copied_);
  if (n <= 0) return false;
  std::memcpy(own_to_ + own_copied_, own_from_ + own_copied_, static_cast<size_t>(n));
  own_copied_ += n;
  return true;
}

void SmallAllReduce::set(Buffer data, Reduce reduce, int rank, int size) {
  data_ = data;
  reduce_ = reduce;
  reduced_ = false;
  const int64_t bytes = data.count * static_cast<int64_t>(dtype_bytes(data.dtype));
  std::byte* slots = staging(bytes * (size - 1));
  std::byte* own = static_cast<std::byte*>(data.data);
  sources_.assign(static_cast<size_t>(size), nullptr);
  sources_[static_cast<size_t>(rank)] = own;
  for (size_t i = 0; i < flows.size(); ++i) {
    Flow& f = flows[i];
    f.send_bytes = f.receive_bytes = bytes;
    f.from = own;
    f.to = slots + static_cast<int64_t>(i) * bytes;
    sources_[static_cast<size_t>(f.peer)] = f.to;
  }
}

bool SmallAllReduce::advance() {
  if (reduced_) return false;
  for (const Flow& f : flows)
    if (f.sends() || f.receives()) return false;  // own values may still be on their way out
  fold(reduce_, data_.dtype, sources_, static_cast<std::byte*>(data_.data), data_.count);
  reduced_ = true;
  return true;
}

void Broadcast::set(Buffer data, int root, int rank, int size) {
  root_ = root;
  rank_ = rank;
  const int64_t element = static_cast<int64_t>(dtype_bytes(data.dtype));
  std::byte* base = static_cast<std::byte*>(data.data);
  // Piece i belongs to the i-th rank that isn't the root.
  const auto piece_of = [&](int r) { return r < root ? r : r - 1; };
  const auto begin = [&](int piece) { return data.count * piece / (size - 1) * element; };
  for (Flow& f : flows) {
    if (rank == root || f.peer != root) {
      const int piece = piece_of(rank == root ? f.peer : rank);
      f.from = base + begin(piece);
      f.send_bytes = begin(piece + 1) - begin(piece);
    }
    if (rank != root) {
      const int piece = piece_of(f.peer == root ? rank : f.peer);
      f.to = base + begin(piece);
      f.receive_bytes = begin(piece + 1) - begin(piece);
    }
  }
}

ConstStretch Broadcast::to_send(const Flow& flow) const {
  if (rank_ == root_) return Operation::to_send(flow);
  int64_t arrived = 0;  // of this rank's piece
  for (const Flow& f : flows)
    if (f.peer == root_) arrived = f.received;
  return {flow.from + flow.sent, arrived - flow.sent};
}

std::vector<int> Broadcast::holdups() const {
  for (const Flow& f : flows)
    if (f.peer == root_ && f.receives()) return {root_};
  return Operation::holdups();
}

}  // namespace dsv3::comm
