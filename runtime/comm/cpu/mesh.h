// Mesh: the ranks of one attempt, connected each to each by sockets: unix sockets within a host,
// TCP between hosts. Groups of ranks (communicators) are made from it.
//
// Laws: (1) A rank that dies is seen by its peers as a closed connection, at once where they wait
// and at the next progress() where they compute; a rank that is silent is seen at the deadline. Who
// sees a fault first tells all others, with the operation and the peer, over connections that carry
// nothing else; who is told passes it on before it goes. (2) Only ranks of the same attempt are let
// in: a connection must show the job's token first, and over unix sockets be of the same user. (3)
// After a failure the mesh is dead; destroying it and connecting again, in the same process, gives
// a new one. (4) No thread is
// started. A wait sleeps in the kernel: what it looks for before that, giving its core away between
// looks, takes 30 µs at most. A mesh and its communicators are used by one thread. How it works:
// ../COMM.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/comm/communicator.h"

namespace dsv3::comm {

struct MeshOptions {
  int rank = 0;
  int world = 1;
  // Where the ranks find each other.
  //   "local:NAME"      all on this host; NAME is unique to the attempt (any text)
  //   "tcp:HOST:PORT"   rank 0 listens there; hosts may differ
  std::string rendezvous;
  std::string token;  // shared secret of the attempt; at most 64 bytes
  int64_t connect_timeout_ms = 30'000;
  int64_t operation_timeout_ms = 120'000;  // of each collective, send and receive
  // "auto": unix sockets where both ranks are on one host (and network namespace), else TCP;
  // "tcp": always TCP (tests, benchmarks); needs a tcp: rendezvous.
  std::string transport = "auto";
  // Looked at while the ranks meet: true ends connect() and create_group(), with kInterrupted.
  // Empty: never.
  std::function<bool()> stop;
  // Address of this host's interface for TCP ("" : the one that reaches the rendezvous). Rank 0
  // listens at the rendezvous itself.
  std::string interface;
};

class Mesh {
 public:
  // Meets the other ranks and connects to each; returns when all are connected. kCollectiveTimeout
  // naming the ranks that did not come; kPeerLost; kInvalid for bad options; kConflict for a token
  // or world size that differs; kInterrupted when told to stop (the ranks met so far hear of it).
  static Result<std::unique_ptr<Mesh>> connect(const MeshOptions& options);
  // Tells the peers that this rank leaves in order, so that it isn't taken for dead; a rank that
  // ends for a fault of its own calls abort() first. Waits for nobody.
  virtual ~Mesh() = default;

  virtual int rank() const = 0;
  virtual int world() const = 0;
  // A communicator of `members` (global ranks, ascending, this one among them; one is enough).
  // Every member calls it, groups in the same order. The mesh outlives it. Throws Failure as
  // operations do. Errors name it by `name`.
  virtual std::unique_ptr<Communicator> create_group(const std::string& name,
                                                     const std::vector<int>& members) = 0;
  // Makes every operation of this mesh, running or to come, here and on the other ranks, fail with
  // `reason` at once: kInterrupted here, kPeerLost there. The one call that any thread may make
  // while the mesh lives. Idempotent.
  virtual void abort(const std::string& reason) = 0;
};

}  // namespace dsv3::comm
