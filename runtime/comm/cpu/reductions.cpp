// reduce_scatter and the all_reduce of many bytes: values arrive in segments and are reduced in the
// order of ranks as soon as all have sent the segment.
//
// Law: an all_reduce overwrites the place of another rank's piece only with that rank's sums, which
// can't arrive before that rank has all of this rank's values: in place is safe.
#include <algorithm>

#include "base/check.h"
#include "runtime/comm/cpu/fold.h"
#include "runtime/comm/cpu/operation.h"

namespace dsv3::comm {
namespace {

constexpr int64_t kSegmentBytes = 64 << 10;
constexpr int64_t kSegmentBytesMin = 4 << 10;
// all_reduce: raw segments that go ahead of the sums; with it the bytes that may be under way while
// a rank computes between two calls of progress(). 2 MiB with one peer keep a link of 250 MB/s busy
// for 8 ms (an attention's backward pass); with more peers as much in all.
int64_t lag(int size) {
  return std::max<int64_t>(2, 32 / std::max(1, size - 1));
}
// Segments of a peer that may be here unreduced.
int64_t num_slots(int size) {
  return lag(size) + 2;
}

}  // namespace

int64_t PieceReducer::segment_bytes(int64_t bytes) {
  int64_t segment = kSegmentBytes;
  while (segment > kSegmentBytesMin && segment * 4 > bytes) segment /= 2;
  return segment;
}

int64_t PieceReducer::slots_bytes(int64_t segment, int size) {
  return segment * num_slots(size) * (size - 1);
}

void PieceReducer::set(Reduce reduce, DType dtype, const std::byte* own, std::byte* out,
                       int64_t bytes, int64_t segment, int rank, int size, std::byte* slots) {
  op_ = reduce;
  dtype_ = dtype;
  own_ = own;
  out_ = out;
  slots_ = slots;
  bytes_ = bytes;
  segment_ = segment;
  segments_ = (bytes + segment - 1) / segment;
  reduced_ = 0;
  rank_ = rank;
  size_ = size;
  sources_.resize(static_cast<size_t>(size));
}

Stretch PieceReducer::room(int peer, int64_t at) const {
  const int64_t ring = num_slots(size_) * segment_;
  const int64_t in_ring = at % ring;
  const int64_t end = std::min(bytes_, (reduced_ + num_slots(size_)) * segment_);
  std::byte* slots = slots_ + (peer < rank_ ? peer : peer - 1) * ring;
  return {slots + in_ring, std::min(end - at, ring - in_ring)};
}

bool PieceReducer::reduce_next(int64_t min_received) {
  const int64_t begin = reduced_ * segment_;
  const int64_t end = std::min(bytes_, begin + segment_);
  if (done() || min_received < end) return false;
  const int64_t ring = num_slots(size_) * segment_;
  for (int r = 0; r < size_; ++r) {
    sources_[static_cast<size_t>(r)] =
        r == rank_ ? own_ + begin : slots_ + (r < rank_ ? r : r - 1) * ring + begin % ring;
  }
  fold(op_, dtype_, sources_, out_ + begin,
       (end - begin) / static_cast<int64_t>(dtype_bytes(dtype_)));
  ++reduced_;
  return true;
}

void ReduceScatter::set(Reduce reduce, DType dtype, const std::byte* own, std::byte* out,
                        int64_t bytes, int rank, int size) {
  const int64_t segment = PieceReducer::segment_bytes(bytes);
  std::byte* slots = staging(PieceReducer::slots_bytes(segment, size));
  reducer_.set(reduce, dtype, own, out, bytes, segment, rank, size, slots);
  for (Flow& f : flows) f.receive_bytes = bytes;
}

Stretch ReduceScatter::to_receive(const Flow& flow) const {
  return reducer_.room(flow.peer, flow.received);
}

bool ReduceScatter::advance() {
  int64_t least = INT64_MAX;
  for (const Flow& f : flows) least = std::min(least, f.received);
  return reducer_.reduce_next(least);
}

std::vector<int> ReduceScatter::holdups() const {
  return slowest();
}

void AllReduce::set(Buffer data, Reduce reduce, int rank, int size) {
  const int64_t element = static_cast<int64_t>(dtype_bytes(data.dtype));
  data_ = static_cast<std::byte*>(data.data);
  bytes_ = data.count * element;
  rank_ = rank;
  size_ = size;
  piece_ = (bytes_ + size - 1) / size;
  piece_ = (piece_ + 63) / 64 * 64;  // whole cache lines; a multiple of every element's size
  segment_ = PieceReducer::segment_bytes(piece_);
  std::byte* own = data_ + piece_begin(rank);
  reducer_.set(reduce, data.dtype, own, own, piece_bytes(rank), segment_, rank, size,
               staging(PieceReducer::slots_bytes(segment_, size)));
  for (Flow& f : flows) {
    f.send_bytes = piece_bytes(f.peer) + piece_bytes(rank);
    f.receive_bytes = f.send_bytes;
    move(f.send_at, 0, piece_bytes(f.peer), piece_bytes(rank));  // to the first that isn't empty
    move(f.receive_at, 0, piece_bytes(rank), piece_bytes(f.peer));
  }
}

AllReduce::Place AllReduce::place(const Cursor& cursor, int64_t raw, int64_t sums) const {
  const int64_t segment = cursor.second ? cursor.segment - lag(size_) : cursor.segment;
  const int64_t end = std::min((segment + 1) * segment_, cursor.second ? sums : raw);
  const int64_t at = segment * segment_ + cursor.at;
  return {cursor.second, at, end - at};
}

void AllReduce::move(Cursor& cursor, int64_t bytes, int64_t raw, int64_t sums) const {
  cursor.at += bytes;
  // On to the next segment that has bytes, if there is one.
  const int64_t last = std::max(raw, sums) / segment_ + lag(size_) + 1;
  while (cursor.segment <= last) {
    const Place p = place(cursor, raw, sums);
    if (p.at >= 0 && p.bytes > 0) return;
    cursor.at = 0;
    if (cursor.second) ++cursor.segment;
    cursor.second = !cursor.second;
  }
}

ConstStretch AllReduce::to_send(const Flow& flow) const {
  const Place p = place(flow.send_at, piece_bytes(flow.peer), piece_bytes(rank_));
  if (flow.sent >= flow.send_bytes) return {};
  if (!p.sums) return {data_ + piece_begin(flow.peer) + p.at, p.bytes};
  const int64_t ready = reducer_.reduced_bytes() - p.at;
  return {data_ + piece_begin(rank_) + p.at, std::min(p.bytes, std::max<int64_t>(0, ready))};
}

Stretch AllReduce::to_receive(const Flow& flow) const {
  const Place p = place(flow.receive_at, piece_bytes(rank_), piece_bytes(flow.peer));
  if (flow.received >= flow.receive_bytes) return {};
  if (p.sums) return {data_ + piece_begin(flow.peer) + p.at, p.bytes};
  const Stretch room = reducer_.room(flow.peer, p.at);
  return {room.data, std::min(room.bytes, p.bytes)};
}

void AllReduce::on_sent(Flow& flow, int64_t bytes) {
  flow.sent += bytes;
  move(flow.send_at, bytes, piece_bytes(flow.peer), piece_bytes(rank_));
}

void AllReduce::on_received(Flow& flow, int64_t bytes) {
  flow.received += bytes;
  move(flow.receive_at, bytes, piece_bytes(rank_), piece_bytes(flow.peer));
}

bool AllReduce::advance() {
  int64_t least = INT64_MAX;  // raw bytes of the own piece that every peer has sent
  for (const Flow& f : flows) {
    const Cursor& c = f.receive_at;
    const int64_t raw = c.second ? (c.segment + 1) * segment_ : c.segment * segment_ + c.at;
    least = std::min(least, f.received >= f.receive_bytes ? INT64_MAX : raw);
  }
  return reducer_.reduce_next(least);
}

std::vector<int> AllReduce::holdups() const {
  return slowest();
}

}  // namespace dsv3::comm
