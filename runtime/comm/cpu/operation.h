// An operation in flight: what each peer is sent and sends, as two streams of bytes per peer.
//
// Laws: (1) Both sides of a stream know its length and layout from the operation's arguments alone;
// on the wire it is a header and the bytes, nothing else. (2) to_send() and to_receive() say which
// stretch of memory may move now: nothing, where the operation must first hear from others (so that
// staging stays small). By induction over a stream's positions some rank can always move: no
// deadlock. (3) Operations are reused: nothing is allocated once one of the size has run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/comm/communicator.h"
#include "runtime/comm/cpu/wire.h"

namespace dsv3::comm {

struct Stretch {
  std::byte* data = nullptr;
  int64_t bytes = 0;
};
struct ConstStretch {
  const std::byte* data = nullptr;
  int64_t bytes = 0;
};

// A place in a stream that alternates between two parts (all_reduce: raw values and sums).
struct Cursor {
  int64_t segment = 0;
  bool second = false;
  int64_t at = 0;  // bytes into the segment
};

// The two streams with one peer. A length of −1: there is no stream that way.
struct Flow {
  int peer = 0;  // rank in the group
  int64_t send_bytes = -1;
  int64_t receive_bytes = -1;
  int64_t sent = 0;
  int64_t received = 0;
  uint32_t header_sent = 0;
  uint32_t header_received = 0;
  bool send_full = false;      // the socket took no more: wait for POLLOUT
  bool receive_empty = false;  // the socket had no more: wait for POLLIN
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  Cursor send_at;
  Cursor receive_at;
  OpHeader out;
  OpHeader in;

  bool sends() const {
    return send_bytes >= 0 && (header_sent < sizeof(OpHeader) || sent < send_bytes);
  }
  bool receives() const {
    return receive_bytes >= 0 && (header_received < sizeof(OpHeader) || received < receive_bytes);
  }
};

class Operation {
 public:
  virtual ~Operation() = default;

  // The stretch of the flow's stream that may go, or come, next; 0 bytes: none for now.
  virtual ConstStretch to_send(const Flow& flow) const {
    return {flow.from + flow.sent, flow.send_bytes - flow.sent};
  }
  virtual Stretch to_receive(const Flow& flow) const {
    return {flow.to + flow.received, flow.receive_bytes - flow.received};
  }
  // `bytes` more went, or came.
  virtual void on_sent(Flow& flow, int64_t bytes) { flow.sent += bytes; }
  virtual void on_received(Flow& flow, int64_t bytes) { flow.received += bytes; }
  // Does a piece of work of this rank's own (reducing, copying), some 100 µs at most; false when
  // there is none now.
  virtual bool advance() { return false; }
  // True when the rank's own work is complete too.
  virtual bool own_part_done() const { return true; }
  // Peers that hold this rank up (ranks in the group): those whose streams aren't through.
  virtual std::vector<int> holdups() const;
  // Of the peers that still owe something, those who sent least: the others may wait themselves.
  std::vector<int> slowest() const;

  bool done() const;
  // "all_reduce 'gradients/2'".
  std::string text() const;

  // Prepares a pooled object for its next use: `n` flows, all empty.
  void reset(size_t n);

  std::vector<Operation*>* home = nullptr;  // where it rests between uses
  Ticket ticket = 0;
  OpKind kind = OpKind::kBarrier;
  bool receiving = false;  // kMessage: this side receives
  std::string name;
  int64_t timeout_ns = 0;
  int64_t deadline_ns = 0;  // 0: it waits for the ones before it
  std::vector<Flow> flows;

 protected:
  std::byte* staging(int64_t bytes);

 private:
  std::unique_ptr<std::byte[]> staging_;
  int64_t staging_bytes_ = 0;
};

// all_to_all, all_gather, barrier, messages, small broadcasts: memory to memory.
class Exchange : public Operation {
 public:
  // What this rank gives to itself; in and out may be the same place.
  void set_own(const std::byte* from, std::byte* to, int64_t bytes);
  bool advance() override;
  bool own_part_done() const override { return own_copied_ >= own_bytes_; }

 private:
  const std::byte* own_from_ = nullptr;
  std::byte* own_to_ = nullptr;
  int64_t own_bytes_ = 0;
  int64_t own_copied_ = 0;
};

// all_reduce of few bytes: everyone gets everything, then reduces.
class SmallAllReduce final : public Operation {
 public:
  // One flow per peer, in any order.
  void set(Buffer data, Reduce reduce, int rank, int size);
  bool advance() override;
  bool own_part_done() const override { return reduced_; }

 private:
  Buffer data_;
  Reduce reduce_ = Reduce::kSum;
  bool reduced_ = false;
  std::vector<const std::byte*> sources_;
};

// The part of reduce_scatter and all_reduce in which the peers' values of this rank's piece come in
// segments and are reduced: a ring of slots per peer.
class PieceReducer {
 public:
  // `own`: this rank's values of the piece; `out`: where the result goes (may be `own`); `slots`:
  // slots_bytes() of memory.
  void set(Reduce reduce, DType dtype, const std::byte* own, std::byte* out, int64_t bytes,
           int64_t segment, int rank, int size, std::byte* slots);
  static int64_t slots_bytes(int64_t segment, int size);
  // Where byte `at` of the peer's values goes, and how much room there is from there.
  Stretch room(int peer, int64_t at) const;
  // Reduces the next segment if `min_received` (the least that any peer has sent) covers it.
  bool reduce_next(int64_t min_received);
  int64_t reduced_bytes() const { return std::min(reduced_ * segment_, bytes_); }
  bool done() const { return reduced_ >= segments_; }
  // The segment's size for pieces of up to `bytes`: the same on every rank.
  static int64_t segment_bytes(int64_t bytes);

 private:
  Reduce op_ = Reduce::kSum;
  DType dtype_ = DType::kF32;
  const std::byte* own_ = nullptr;
  std::byte* out_ = nullptr;
  std::byte* slots_ = nullptr;
  int64_t bytes_ = 0;
  int64_t segment_ = 1;
  int64_t segments_ = 0;
  int64_t reduced_ = 0;  // segments
  int rank_ = 0;
  int size_ = 1;
  std::vector<const std::byte*> sources_;
};

class ReduceScatter final : public Operation {
 public:
  // Flows hold `from` (the peer's piece of this rank's input); one per peer.
  void set(Reduce reduce, DType dtype, const std::byte* own, std::byte* out, int64_t bytes,
           int rank, int size);
  Stretch to_receive(const Flow& flow) const override;
  bool advance() override;
  bool own_part_done() const override { return reducer_.done(); }
  std::vector<int> holdups() const override;

 private:
  PieceReducer reducer_;
};

// all_reduce of many bytes: each rank reduces its piece and gives the sums to all. The stream to a
// peer holds raw segment t of the peer's piece, then reduced segment t − lag of the own piece, for
// t = 0, 1, …
class AllReduce final : public Operation {
 public:
  // Sets the flows' lengths too; one flow per peer, `peer` set.
  void set(Buffer data, Reduce reduce, int rank, int size);
  ConstStretch to_send(const Flow& flow) const override;
  Stretch to_receive(const Flow& flow) const override;
  void on_sent(Flow& flow, int64_t bytes) override;
  void on_received(Flow& flow, int64_t bytes) override;
  bool advance() override;
  bool own_part_done() const override { return reducer_.done(); }
  std::vector<int> holdups() const override;

 private:
  struct Place {
    bool sums = false;
    int64_t at = 0;     // in the piece
    int64_t bytes = 0;  // to the segment's end
  };
  // Where the cursor stands in a stream of `raw` and `sums` bytes.
  Place place(const Cursor& cursor, int64_t raw, int64_t sums) const;
  void move(Cursor& cursor, int64_t bytes, int64_t raw, int64_t sums) const;
  int64_t piece_begin(int r) const { return std::min(bytes_, piece_ * r); }
  int64_t piece_bytes(int r) const { return piece_begin(r + 1) - piece_begin(r); }

  PieceReducer reducer_;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t piece_ = 0;
  int64_t segment_ = 1;
  int rank_ = 0;
  int size_ = 2;
};

// broadcast of many bytes to several: the root gives each a piece, who hands it on to the others.
class Broadcast final : public Operation {
 public:
  // Sets the flows' lengths; one flow per peer, `peer` set.
  void set(Buffer data, int root, int rank, int size);
  ConstStretch to_send(const Flow& flow) const override;
  std::vector<int> holdups() const override;

 private:
  int root_ = 0;
  int rank_ = 0;
};

// At most so many bytes take the one-round algorithms.
inline constexpr int64_t kSmallAllReduceBytes = 32 << 10;
inline constexpr int64_t kSmallBroadcastBytes = 64 << 10;

}  // namespace dsv3::comm
