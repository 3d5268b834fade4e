// Communicator: what a group of ranks does together: sums, gathers, exchanges.
//
// Laws: (1) The members call the same operations in the same order; calls of one communicator take
// effect first in, first out, and different communicators are independent of each other. (2) A sum
// adds the members' values in the order of their ranks, bf16 in f32 with one rounding at the end,
// so every member holds the same bits, whatever the size, the algorithm or the timing. (3) Nothing
// waits without a deadline; whatever breaks (a lost peer, silence, an abort) is one Failure that
// names the operation and the peers, on every rank, and the communicator is then dead: the process
// or the mesh is the unit of recovery (base/failure.h). (4) Work moves on only inside these calls,
// on the calling thread: call progress() between other work and communication overlaps with it.
//
// Buffers belong to the caller and must stay untouched from start_…() until the ticket is done. A
// communicator is used by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/dtype.h"

namespace dsv3::comm {

enum class Reduce : uint8_t { kSum, kMax };

// `count` elements of `dtype` at `data`; contiguous.
struct Buffer {
  void* data = nullptr;
  int64_t count = 0;
  DType dtype = DType::kF32;
};
struct ConstBuffer {
  const void* data = nullptr;
  int64_t count = 0;
  DType dtype = DType::kF32;
  ConstBuffer() = default;
  ConstBuffer(const void* data_in, int64_t count_in, DType dtype_in)
      : data(data_in), count(count_in), dtype(dtype_in) {}
  ConstBuffer(const Buffer& b)
      : data(b.data), count(b.count), dtype(b.dtype) {}  // NOLINT: implicit
};

// Since the communicator was made. Payload bytes, without headers.
struct Traffic {
  int64_t operations = 0;
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;
  int64_t wait_ns = 0;  // spent inside wait() and the blocking calls: exposed communication
};

// An operation that was started; numbers grow by one.
using Ticket = uint64_t;

class Communicator {
 public:
  virtual ~Communicator() = default;

  // This rank within the group: 0 … size() − 1.
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // The group's name ("dp"), as errors print it.
  virtual const std::string& name() const = 0;

  // Each operation has a name ("gradients/3") for errors; it must be a string that outlives the
  // operation's start (it is copied). All members give the same names, sizes and dtypes (a send and
  // its receive may have different names); a mismatch that is seen on the wire is a Failure
  // (kFailed) naming both sides' operations. Zero counts are fine. Buffers are aligned to their
  // dtype. Programmer errors (a negative count, a rank outside the group) abort. Starting moves
  // what can be moved, so it too throws Failure.

  // data[i] = reduction over the members of their data[i], in place.
  virtual Ticket start_all_reduce(std::string_view op, Buffer data, Reduce reduce) = 0;
  // counts[r] elements of `in` (all counts, in order of ranks) are reduced into rank r's `out`
  // (counts[rank()] elements). `out` may be in's own part of rank(), else they don't overlap.
  virtual Ticket start_reduce_scatter(std::string_view op, ConstBuffer in, Buffer out,
                                      std::span<const int64_t> counts, Reduce reduce) = 0;
  // out = the members' `in`, counts[r] elements each, in order of ranks. `in` may be out's own
  // part.
  virtual Ticket start_all_gather(std::string_view op, ConstBuffer in, Buffer out,
                                  std::span<const int64_t> counts) = 0;
  // The first send_counts[0] elements of `in` go to rank 0, the next send_counts[1] to rank 1, …;
  // `out` is what came from rank 0, 1, … (receive_counts). in and out don't overlap. Those that
  // are started one behind the other may move at the same time (they are done in order): the `in`
  // of one is not the `out` of another that isn't done.
  virtual Ticket start_all_to_all(std::string_view op, ConstBuffer in,
                                  std::span<const int64_t> send_counts, Buffer out,
                                  std::span<const int64_t> receive_counts) = 0;
  virtual Ticket start_broadcast(std::string_view op, Buffer data, int root) = 0;
  // To and from one peer (not itself). Sends and receives between two ranks match in order. An
  // operation with several members is not overtaken by them, nor overtakes them; those with
  // different peers don't wait for each other.
  virtual Ticket start_send(std::string_view op, ConstBuffer data, int peer) = 0;
  virtual Ticket start_receive(std::string_view op, Buffer data, int peer) = 0;
  // Done when every member has started it.
  virtual Ticket start_barrier(std::string_view op) = 0;

  // Moves what can be moved without waiting, in all groups of the mesh. True when nothing
  // of this group is outstanding. Throws Failure.
  virtual bool progress() = 0;
  // The deadline of operations that are started from now on; 0: the one the communicator was made
  // with. All members give the same.
  virtual void set_timeout_ms(int64_t timeout_ms) = 0;
  virtual bool is_done(Ticket ticket) const = 0;
  // Until the operation is done, at most its deadline (counted from its start, or from the end of
  // the one before it where that is later). Sleeps in the kernel, doesn't spin. Throws Failure.
  virtual void wait(Ticket ticket) = 0;
  virtual void wait_all() = 0;

  virtual const Traffic& traffic() const = 0;

  // The same, waited for.
  void all_reduce(std::string_view op, Buffer data, Reduce reduce = Reduce::kSum) {
    wait(start_all_reduce(op, data, reduce));
  }
  void reduce_scatter(std::string_view op, ConstBuffer in, Buffer out,
                      std::span<const int64_t> counts, Reduce reduce = Reduce::kSum) {
    wait(start_reduce_scatter(op, in, out, counts, reduce));
  }
  void all_gather(std::string_view op, ConstBuffer in, Buffer out,
                  std::span<const int64_t> counts) {
    wait(start_all_gather(op, in, out, counts));
  }
  void all_to_all(std::string_view op, ConstBuffer in, std::span<const int64_t> send_counts,
                  Buffer out, std::span<const int64_t> receive_counts) {
    wait(start_all_to_all(op, in, send_counts, out, receive_counts));
  }
  void broadcast(std::string_view op, Buffer data, int root) {
    wait(start_broadcast(op, data, root));
  }
  void send(std::string_view op, ConstBuffer data, int peer) { wait(start_send(op, data, peer)); }
  void receive(std::string_view op, Buffer data, int peer) { wait(start_receive(op, data, peer)); }
  void barrier(std::string_view op) { wait(start_barrier(op)); }
};

}  // namespace dsv3::comm
