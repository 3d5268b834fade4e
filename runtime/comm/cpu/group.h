// Group: the communicator of a mesh. It queues operations and moves the streams of those whose turn
// it is.
//
// Laws: (1) A collective starts when all before it are complete here; messages start when all
// collectives before them are, in order per peer and direction; so do all_to_alls that follow each
// other, which need nothing of each other: the next one's bytes leave as soon as the socket takes
// them. What a peer sends before its turn here stays in the socket: there are no buffers for
// unexpected messages. (2) No system call is
// made that is known to be in vain: after a socket was found full or empty it is left alone until
// poll() or the next progress().
#pragma once

#include <poll.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/cpu/operation.h"
#include "runtime/comm/cpu/socket.h"

namespace dsv3::comm {

class SocketMesh;

class Group final : public Communicator {
 public:
  // `channels[r]`: the connection with member r, invalid for the own rank.
  Group(SocketMesh& mesh, std::string name, std::vector<int> members, int rank,
        std::vector<Fd> channels);
  ~Group() override;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  const std::string& name() const override { return name_; }

  Ticket start_all_reduce(std::string_view op, Buffer data, Reduce reduce) override;
  Ticket start_reduce_scatter(std::string_view op, ConstBuffer in, Buffer out,
                              std::span<const int64_t> counts, Reduce reduce) override;
  Ticket start_all_gather(std::string_view op, ConstBuffer in, Buffer out,
                          std::span<const int64_t> counts) override;
  Ticket start_all_to_all(std::string_view op, ConstBuffer in, std::span<const int64_t> send_counts,
                          Buffer out, std::span<const int64_t> receive_counts) override;
  Ticket start_broadcast(std::string_view op, Buffer data, int root) override;
  Ticket start_send(std::string_view op, ConstBuffer data, int peer) override;
  Ticket start_receive(std::string_view op, Buffer data, int peer) override;
  Ticket start_barrier(std::string_view op) override;

  void set_timeout_ms(int64_t timeout_ms) override;
  bool progress() override;
  bool is_done(Ticket ticket) const override;
  void wait(Ticket ticket) override;
  void wait_all() override;
  const Traffic& traffic() const override { return traffic_; }

  // For the mesh. Moves what can be moved without waiting, in at most `passes` rounds over the
  // streams; true when anything moved. Throws Failure.
  bool move(int passes);
  bool idle() const { return queue_.empty(); }
  // Forgets what was found full or empty, so that the next move() tries everything.
  void refresh();
  // What to wait for: the sockets, and in `flows` (same order) whose they are; lowers `until_ns`.
  void add_poll(std::vector<pollfd>& fds, std::vector<Flow*>& flows, int64_t& until_ns);
  // The operation whose deadline has passed, or null.
  const Operation* expired(int64_t now) const;
  // The oldest operation, or null.
  const Operation* current() const { return queue_.empty() ? nullptr : queue_.front(); }
  int global_rank(int r) const { return members_[static_cast<size_t>(r)]; }

 private:
  // Operations of one type, reused.
  template <typename T>
  struct Pool {
    std::vector<std::unique_ptr<T>> all;
    std::vector<Operation*> resting;
  };
  template <typename T>
  T& take(Pool<T>& pool, OpKind kind, std::string_view name, size_t num_flows);
  // A flow per other member, the next rank first (so that not everyone writes to rank 0 first).
  void set_peers(Operation& op) const;
  // Fills the headers, queues it and moves it a first time.
  Ticket start(Operation& op, Reduce reduce, DType dtype, int64_t count);
  // Whether the flow's next bytes are its own to move: no operation before it uses the direction.
  bool may_send(const Flow& flow) const;
  bool may_receive(const Flow& flow) const;
  bool has_turn(const Operation& op) const;
  void begin(Operation& op);
  bool move_operation(Operation& op);
  bool send(Operation& op, Flow& flow);
  bool receive(Operation& op, Flow& flow);
  void check_header(const Operation& op, const Flow& flow);
  void retire(size_t index);

  SocketMesh& mesh_;
  std::string name_;
  std::vector<int> members_;
  int rank_;
  std::vector<Fd> channels_;
  std::vector<Operation*> queue_;  // outstanding, oldest first
  std::vector<uint8_t> busy_;      // per peer: directions that an operation before uses
  Ticket last_ticket_ = 0;
  uint64_t collectives_ = 0;
  std::vector<uint64_t> messages_sent_, messages_received_;
  int64_t timeout_ns_;
  Traffic traffic_;
  Pool<Exchange> exchanges_;
  Pool<SmallAllReduce> small_all_reduces_;
  Pool<ReduceScatter> reduce_scatters_;
  Pool<AllReduce> all_reduces_;
  Pool<Broadcast> broadcasts_;
};

}  // namespace dsv3::comm
