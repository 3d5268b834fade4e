// The operations of a group: how each one's arguments become streams with the peers.
#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "runtime/comm/cpu/group.h"
#include "runtime/comm/cpu/socket_mesh.h"

namespace dsv3::comm {
namespace {

int64_t bytes_of(int64_t count, DType dtype) {
  return count * static_cast<int64_t>(dtype_bytes(dtype));
}
const std::byte* begin_of(const ConstBuffer& b) {
  return static_cast<const std::byte*>(b.data);
}
std::byte* begin_of(const Buffer& b) {
  return static_cast<std::byte*>(b.data);
}

// The sum of counts[0 … r).
int64_t before(std::span<const int64_t> counts, int r) {
  return std::accumulate(counts.begin(), counts.begin() + r, int64_t{0});
}

void check_counts(std::span<const int64_t> counts, int size, int64_t total) {
  DSV3_CHECK(counts.size() == static_cast<size_t>(size), "one count per member");
  for (const int64_t c : counts) DSV3_CHECK(c >= 0, "a negative count");
  DSV3_CHECK(before(counts, size) == total, "the counts must sum up to the buffer's");
}

}  // namespace

template <typename T>
T& Group::take(Pool<T>& pool, OpKind kind, std::string_view name, size_t num_flows) {
  mesh_.enter(this);
  if (pool.resting.empty()) {
    pool.all.push_back(std::make_unique<T>());
    pool.all.back()->home = &pool.resting;
    pool.resting.push_back(pool.all.back().get());
  }
  T& op = static_cast<T&>(*pool.resting.back());
  pool.resting.pop_back();
  op.reset(num_flows);
  op.kind = kind;
  op.name.assign(name);
  op.timeout_ns = timeout_ns_;
  return op;
}

void Group::set_peers(Operation& op) const {
  for (size_t i = 0; i < op.flows.size(); ++i)
    op.flows[i].peer = (rank_ + 1 + static_cast<int>(i)) % size();
}

Ticket Group::start(Operation& op, Reduce reduce, DType dtype, int64_t count) {
  OpHeader header;
  header.kind = static_cast<uint8_t>(op.kind);
  header.reduce = static_cast<uint8_t>(reduce);
  header.dtype = static_cast<uint8_t>(dtype);
  header.name_bytes = static_cast<uint8_t>(std::min<size_t>(op.name.size(), 255));
  header.count = count;
  header.name_hash = name_hash(op.name);
  std::copy_n(op.name.begin(), std::min(op.name.size(), sizeof(header.name)), header.name);
  if (op.kind == OpKind::kMessage) {
    const size_t peer = static_cast<size_t>(op.flows[0].peer);
    header.sequence = op.receiving ? messages_received_[peer]++ : messages_sent_[peer]++;
  } else {
    header.sequence = collectives_++;
  }
  for (Flow& f : op.flows) {
    f.out = header;
    f.out.bytes = f.send_bytes;
  }
  op.ticket = ++last_ticket_;
  queue_.push_back(&op);
  move(1);
  return op.ticket;
}

Ticket Group::start_all_reduce(std::string_view name, Buffer data, Reduce reduce) {
  DSV3_CHECK(data.count >= 0, "a negative count");
  const size_t others = members_.size() - 1;
  if (bytes_of(data.count, data.dtype) <= kSmallAllReduceBytes) {
    SmallAllReduce& op = take(small_all_reduces_, OpKind::kAllReduce, name, others);
    set_peers(op);
    op.set(data, reduce, rank_, size());
    return start(op, reduce, data.dtype, data.count);
  }
  AllReduce& op = take(all_reduces_, OpKind::kAllReduce, name, others);
  set_peers(op);
  op.set(data, reduce, rank_, size());
  return start(op, reduce, data.dtype, data.count);
}

Ticket Group::start_reduce_scatter(std::string_view name, ConstBuffer in, Buffer out,
                                   std::span<const int64_t> counts, Reduce reduce) {
  check_counts(counts, size(), in.count);
  DSV3_CHECK(in.dtype == out.dtype && out.count == counts[static_cast<size_t>(rank_)]);
  ReduceScatter& op = take(reduce_scatters_, OpKind::kReduceScatter, name, members_.size() - 1);
  set_peers(op);
  for (Flow& f : op.flows) {
    f.from = begin_of(in) + bytes_of(before(counts, f.peer), in.dtype);
    f.send_bytes = bytes_of(counts[static_cast<size_t>(f.peer)], in.dtype);
  }
  op.set(reduce, in.dtype, begin_of(in) + bytes_of(before(counts, rank_), in.dtype), begin_of(out),
         bytes_of(out.count, out.dtype), rank_, size());
  return start(op, reduce, in.dtype, in.count);
}

Ticket Group::start_all_gather(std::string_view name, ConstBuffer in, Buffer out,
                               std::span<const int64_t> counts) {
  check_counts(counts, size(), out.count);
  DSV3_CHECK(in.dtype == out.dtype && in.count == counts[static_cast<size_t>(rank_)]);
  Exchange& op = take(exchanges_, OpKind::kAllGather, name, members_.size() - 1);
  set_peers(op);
  for (Flow& f : op.flows) {
    f.from = begin_of(in);
    f.send_bytes = bytes_of(in.count, in.dtype);
    f.to = begin_of(out) + bytes_of(before(counts, f.peer), out.dtype);
    f.receive_bytes = bytes_of(counts[static_cast<size_t>(f.peer)], out.dtype);
  }
  op.set_own(begin_of(in), begin_of(out) + bytes_of(before(counts, rank_), out.dtype),
             bytes_of(in.count, in.dtype));
  return start(op, Reduce::kSum, in.dtype, out.count);
}

Ticket Group::start_all_to_all(std::string_view name, ConstBuffer in,
                               std::span<const int64_t> send_counts, Buffer out,
                               std::span<const int64_t> receive_counts) {
  check_counts(send_counts, size(), in.count);
  check_counts(receive_counts, size(), out.count);
  const size_t me = static_cast<size_t>(rank_);
  DSV3_CHECK(in.dtype == out.dtype && send_counts[me] == receive_counts[me]);
  Exchange& op = take(exchanges_, OpKind::kAllToAll, name, members_.size() - 1);
  set_peers(op);
  for (Flow& f : op.flows) {
    f.from = begin_of(in) + bytes_of(before(send_counts, f.peer), in.dtype);
    f.send_bytes = bytes_of(send_counts[static_cast<size_t>(f.peer)], in.dtype);
    f.to = begin_of(out) + bytes_of(before(receive_counts, f.peer), out.dtype);
    f.receive_bytes = bytes_of(receive_counts[static_cast<size_t>(f.peer)], out.dtype);
  }
  op.set_own(begin_of(in) + bytes_of(before(send_counts, rank_), in.dtype),
             begin_of(out) + bytes_of(before(receive_counts, rank_), out.dtype),
             bytes_of(send_counts[me], in.dtype));
  return start(op, Reduce::kSum, in.dtype, 0);  // each rank has its own counts
}

Ticket Group::start_broadcast(std::string_view name, Buffer data, int root) {
  DSV3_CHECK(data.count >= 0, "a negative count");
  DSV3_CHECK(root >= 0 && root < size(), "a rank outside the group");
  const int64_t bytes = bytes_of(data.count, data.dtype);
  const size_t others = members_.size() - 1;
  if (size() > 2 && bytes > kSmallBroadcastBytes) {
    Broadcast& op = take(broadcasts_, OpKind::kBroadcast, name, others);
    set_peers(op);
    op.set(data, root, rank_, size());
    return start(op, Reduce::kSum, data.dtype, data.count);
  }
  Exchange& op = take(exchanges_, OpKind::kBroadcast, name, rank_ == root ? others : 1);
  op.set_own(nullptr, nullptr, 0);
  if (rank_ == root) set_peers(op);
  for (Flow& f : op.flows) {
    if (rank_ != root) f.peer = root;
    (rank_ == root ? f.send_bytes : f.receive_bytes) = bytes;
    f.from = begin_of(data);
    f.to = begin_of(data);
  }
  return start(op, Reduce::kSum, data.dtype, data.count);
}

Ticket Group::start_send(std::string_view name, ConstBuffer data, int peer) {
  DSV3_CHECK(data.count >= 0, "a negative count");
  DSV3_CHECK(peer >= 0 && peer < size() && peer != rank_, "a rank outside the group");
  Exchange& op = take(exchanges_, OpKind::kMessage, name, 1);
  op.set_own(nullptr, nullptr, 0);
  op.flows[0].peer = peer;
  op.flows[0].from = begin_of(data);
  op.flows[0].send_bytes = bytes_of(data.count, data.dtype);
  return start(op, Reduce::kSum, data.dtype, data.count);
}

Ticket Group::start_receive(std::string_view name, Buffer data, int peer) {
  DSV3_CHECK(data.count >= 0, "a negative count");
  DSV3_CHECK(peer >= 0 && peer < size() && peer != rank_, "a rank outside the group");
  Exchange& op = take(exchanges_, OpKind::kMessage, name, 1);
  op.receiving = true;
  op.set_own(nullptr, nullptr, 0);
  op.flows[0].peer = peer;
  op.flows[0].to = begin_of(data);
  op.flows[0].receive_bytes = bytes_of(data.count, data.dtype);
  return start(op, Reduce::kSum, data.dtype, data.count);
}

Ticket Group::start_barrier(std::string_view name) {
  Exchange& op = take(exchanges_, OpKind::kBarrier, name, members_.size() - 1);
  set_peers(op);
  op.set_own(nullptr, nullptr, 0);
  for (Flow& f : op.flows) f.send_bytes = f.receive_bytes = 0;
  return start(op, Reduce::kSum, DType::kF32, 0);
}

}  // namespace dsv3::comm
