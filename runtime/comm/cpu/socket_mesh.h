// SocketMesh: the mesh itself. It holds the control connections, waits for all of its groups at
// once, and turns whatever breaks into one Failure that everybody hears of.
//
// Laws: (1) A wait in one group moves the operations of all groups: no group can hold up another.
// (2) News from the control connections come before what a data connection suggests, and what a
// rank told comes before that it went: a rank that failed because of another isn't blamed. (3)
// After a failure every call throws the same again.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/comm/cpu/group.h"
#include "runtime/comm/cpu/meeting.h"
#include "runtime/comm/cpu/mesh.h"

namespace dsv3::comm {

class SocketMesh final : public Mesh {
 public:
  SocketMesh(const MeshOptions& options, Links links, Fd watch, Fd alarm);
  ~SocketMesh() override;

  int rank() const override { return options_.rank; }
  int world() const override { return options_.world; }
  std::unique_ptr<Communicator> create_group(const std::string& name,
                                             const std::vector<int>& members) override;
  void abort(const std::string& reason) override;

  // For groups.
  int64_t operation_timeout_ns() const { return options_.operation_timeout_ms * 1'000'000; }
  void add(Group* group) { groups_.push_back(group); }
  void remove(Group* group);
  // Throws when the mesh is dead; says which group's call this is, for the report.
  void enter(const Group* group);
  // Moves all groups once, without waiting.
  void progress(Group& group);
  // Until `is_done`, moving all groups.
  void wait(Group& group, const std::function<bool()>& is_done);
  // A failure seen here: tells the others and throws.
  [[noreturn]] void fail(Code code, int culprit, const std::string& reason);
  // A data connection with `peer` (global) was found closed: finds out why, and throws.
  [[noreturn]] void fail_closed(int peer);

 private:
  struct Link {
    Fd fd;
    std::string unread;
    bool said_goodbye = false;
    bool closed = false;
  };
  // Reads the control connections if there is anything; throws what was told or seen.
  void hear();
  // Reads one; true when a fault was told, put into `fault`.
  bool read_link(Link& link, Fault& fault);
  void tell(ControlKind kind, const Fault& fault);
  [[noreturn]] void die(Code code, const std::string& message);
  std::string here() const;
  void check_deadlines();
  bool sleep();
  std::vector<Fd> connect_members(const std::vector<int>& members, uint64_t key, uint32_t turn);

  MeshOptions options_;
  std::unique_ptr<Door> door_;
  std::vector<Address> addresses_;
  std::vector<Link> links_;
  Fd watch_;  // an epoll of the control connections and the alarm
  Fd alarm_;  // an eventfd: abort() was called
  std::vector<Group*> groups_;
  std::map<uint64_t, uint32_t> turns_;  // groups made so far, by key
  const Group* current_ = nullptr;
  std::string current_text_;  // what else than an operation is going on
  std::vector<pollfd> poll_fds_;
  std::vector<Flow*> poll_flows_;
  bool dead_ = false;
  Code dead_code_ = Code::kOk;
  std::string dead_operation_, dead_message_;

  std::mutex abort_mutex_;  // guards the reason, and that it is told once
  std::atomic<bool> aborted_ = false;
  std::string abort_reason_;
};

}  // namespace dsv3::comm
