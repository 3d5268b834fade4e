// Decorated communicators; see watched_groups.h.
#include "tests/parity/watched_groups.h"

#include <utility>

namespace dsv3::parity {
namespace {

using comm::Buffer;
using comm::ConstBuffer;
using comm::Reduce;
using comm::Ticket;
using Counts = std::span<const int64_t>;

class Watched final : public comm::Communicator {
 public:
  Watched(Communicator& inner, const Watcher& watcher) : inner_(inner), watcher_(watcher) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  const std::string& name() const override { return inner_.name(); }

  Ticket start_all_reduce(std::string_view op, Buffer data, Reduce reduce) override {
    watcher_(name(), op);
    return inner_.start_all_reduce(op, data, reduce);
  }
  Ticket start_reduce_scatter(std::string_view op, ConstBuffer in, Buffer out, Counts counts,
                              Reduce reduce) override {
    watcher_(name(), op);
    return inner_.start_reduce_scatter(op, in, out, counts, reduce);
  }
  Ticket start_all_gather(std::string_view op, ConstBuffer in, Buffer out, Counts counts) override {
    watcher_(name(), op);
    return inner_.start_all_gather(op, in, out, counts);
  }
  Ticket start_all_to_all(std::string_view op, ConstBuffer in, Counts send_counts, Buffer out,
                          Counts receive_counts) override {
    watcher_(name(), op);
    return inner_.start_all_to_all(op, in, send_counts, out, receive_counts);
  }
  Ticket start_broadcast(std::string_view op, Buffer data, int root) override {
    watcher_(name(), op);
    return inner_.start_broadcast(op, data, root);
  }
  Ticket start_send(std::string_view op, ConstBuffer data, int peer) override {
    watcher_(name(), op);
    return inner_.start_send(op, data, peer);
  }
  Ticket start_receive(std::string_view op, Buffer data, int peer) override {
    watcher_(name(), op);
    return inner_.start_receive(op, data, peer);
  }
  Ticket start_barrier(std::string_view op) override {
    watcher_(name(), op);
    return inner_.start_barrier(op);
  }

  bool progress() override { return inner_.progress(); }
  void set_timeout_ms(int64_t timeout_ms) override { inner_.set_timeout_ms(timeout_ms); }
  bool is_done(Ticket ticket) const override { return inner_.is_done(ticket); }
  void wait(Ticket ticket) override { inner_.wait(ticket); }
  void wait_all() override { inner_.wait_all(); }
  const comm::Traffic& traffic() const override { return inner_.traffic(); }

 private:
  Communicator& inner_;
  const Watcher& watcher_;
};

}  // namespace

WatchedGroups::WatchedGroups(const comm::Groups& groups, Watcher watcher)
    : watcher_(std::move(watcher)), groups_(groups) {
  for (comm::Communicator** one :
       {&groups_.world, &groups_.tensor, &groups_.context, &groups_.sequence, &groups_.experts,
        &groups_.forward, &groups_.backward, &groups_.embedding}) {
    *one = watched(*one);
  }
  for (comm::Lanes* lanes : {&groups_.replicated, &groups_.dense, &groups_.expert}) {
    for (comm::Communicator*& lane : *lanes) lane = watched(lane);
  }
}

comm::Communicator* WatchedGroups::watched(comm::Communicator* inner) {
  if (inner == nullptr) return nullptr;
  std::unique_ptr<comm::Communicator>& own = owned_[inner];
  if (!own) own = std::make_unique<Watched>(*inner, watcher_);
  return own.get();
}

}  // namespace dsv3::parity
