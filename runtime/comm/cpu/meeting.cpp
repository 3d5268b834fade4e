// The meeting: see meeting.h. First everybody learns where the others are (on one host from the
// rendezvous' name alone, else from rank 0's table), then the pairs connect.
#include "runtime/comm/cpu/meeting.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/hash.h"
#include "base/process.h"

namespace dsv3::comm {
namespace {

std::string hash_text(const std::string& text) {
  return checksum(std::as_bytes(std::span(text.data(), text.size())));
}

// Of the same user only: the name is seen by everyone on the host, so the token isn't in it.
std::string local_name(const std::string& name, int rank) {
  return "dsv3-" + hash_text(name + "|" + std::to_string(geteuid())) + "-" + std::to_string(rank);
}

std::string random_name() {
  unsigned char bytes[16] = {};
  (void)!getrandom(bytes, sizeof(bytes), 0);
  std::string name = "dsv3-";
  for (const unsigned char b : bytes) {
    name += "0123456789abcdef"[b >> 4];
    name += "0123456789abcdef"[b & 15];
  }
  return name;
}

// Equal on two ranks exactly when abstract unix names mean the same to both; "" when unknown.
std::string host_identity() {
  char space[64] = "";
  const ssize_t n = readlink("/proc/self/ns/net", space, sizeof(space) - 1);
  const std::string boot = boot_id();
  return n > 0 && !boot.empty() ? boot + " " + std::string(space, static_cast<size_t>(n)) : "";
}

std::string list(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

class Meeting {
 public:
  explicit Meeting(const MeshOptions& options)
      : o_(options), until_ns_(now_ns() + options.connect_timeout_ms * 1'000'000) {
    links_.door = std::make_unique<Door>(o_.token, o_.world);
    links_.addresses.resize(static_cast<size_t>(o_.world));
    links_.control.resize(static_cast<size_t>(o_.world));
  }

  Result<Links> run() {
    const Status status = meet();
    if (status.ok()) return std::move(links_);
    // Who is connected already needn't wait for the deadline.
    const std::string frame =
        control_frame(ControlKind::kFault, {Code::kPeerLost, -1, "the meeting", status.message()});
    for (const Fd& link : links_.control)
      if (link.valid())
        (void)!send(link.get(), frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return status;
  }

 private:
  // An error when this rank is told to stop, or the time is up.
  Status check_time(const std::function<Status()>& too_late) const {
    if (o_.stop && o_.stop())
      return Status(Code::kInterrupted, "stopped while the ranks were meeting");
    return now_ns() >= until_ns_ ? too_late() : Status();
  }

  void wait(std::vector<pollfd>& fds, int64_t until_ns) const {
    poll_until(fds, o_.stop ? std::min(until_ns, now_ns() + kStopLookNs) : until_ns);
  }

  Status meet() {
    if (o_.rendezvous.starts_with("local:")) {
      DSV3_RETURN_IF_ERROR(meet_by_name(o_.rendezvous.substr(6)));
    } else {
      DSV3_RETURN_IF_ERROR(meet_by_table(o_.rendezvous.substr(4)));
    }
    return connect_pairs();
  }

  Status meet_by_name(const std::string& name) {
    for (int r = 0; r < o_.world; ++r)
      links_.addresses[static_cast<size_t>(r)] = unix_address(local_name(name, r));
    return links_.door->open(links_.addresses[static_cast<size_t>(o_.rank)]);
  }

  Status meet_by_table(const std::string& host_port) {
    const size_t colon = host_port.rfind(':');
    std::string host = host_port.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']')
      host = host.substr(1, host.size() - 2);
    DSV3_ASSIGN_OR_RETURN(const Address meeting_place,
                          resolve_tcp(host, host_port.substr(colon + 1)));
    put_text(own_.host, host_identity());
    put_text(own_.unix_name, random_name());
    DSV3_RETURN_IF_ERROR(links_.door->open(unix_address(get_text(own_.unix_name))));
    std::vector<Place> table;
    if (o_.rank == 0) {
      DSV3_ASSIGN_OR_RETURN(table, host_table(meeting_place));
    } else {
      DSV3_ASSIGN_OR_RETURN(table, ask_for_table(meeting_place));
    }
    return choose_addresses(table, meeting_place);
  }

  // Rank 0: waits for all, then tells everyone where everyone is.
  Result<std::vector<Place>> host_table(const Address& meeting_place) {
    DSV3_RETURN_IF_ERROR(links_.door->open(meeting_place));
    std::vector<Visitor> guests(static_cast<size_t>(o_.world));
    std::vector<Place> table(static_cast<size_t>(o_.world));
    table[0] = own_;
    for (;;) {
      links_.door->receive();
      for (Visitor v = links_.door->take(Purpose::kMeet, -1); v.fd.valid();
           v = links_.door->take(Purpose::kMeet, -1)) {
        Visitor& guest = guests[v.hello.rank];
        if (v.hello.rank == 0 || (guest.fd.valid() && !is_closed(guest.fd.get()))) {
          (void)send_answer(v.fd.get(), Answer::kTaken);
          continue;
        }
        table[v.hello.rank] = v.hello.place;
        guest = std::move(v);
      }
      std::vector<int> missing;
      for (int r = 1; r < o_.world; ++r)
        if (!guests[static_cast<size_t>(r)].fd.valid()) missing.push_back(r);
      if (missing.empty()) break;
      DSV3_RETURN_IF_ERROR(check_time([&] { return did_not_come(missing); }));
      std::vector<pollfd> fds;
      int64_t until = until_ns_;
      links_.door->add_poll(fds, until);
      wait(fds, until);
    }
    const std::string bytes(reinterpret_cast<const char*>(table.data()),
                            table.size() * sizeof(Place));
    for (size_t r = 1; r < guests.size(); ++r)
      (void)send_answer(guests[r].fd.get(), Answer::kWelcome, bytes);  // one gone is missed later
    return table;
  }

  // Other ranks: go to rank 0, say where this one is, take the table.
  Result<std::vector<Place>> ask_for_table(const Address& meeting_place) {
    const size_t table_bytes = static_cast<size_t>(o_.world) * sizeof(Place);
    Call call(0, meeting_place, make_hello(o_, Purpose::kMeet), sizeof(AnswerFrame) + table_bytes);
    call.on_connected = [this](int fd, Hello& hello) -> Status {
      if (own_.tcp[0] == '\0') {
        Address here = local_address(fd);
        if (!o_.interface.empty()) {
          DSV3_ASSIGN_OR_RETURN(here, resolve_tcp(o_.interface, "0"));
        }
        set_port(here, 0);
        DSV3_RETURN_IF_ERROR(links_.door->open(here));
        set_port(here, links_.door->tcp_port());
        put_text(own_.tcp, tcp_text(here));
      }
      hello.place = own_;
      return {};
    };
    while (!call.done()) {
      call.step();
      if (!call.status().ok()) return call.status();
      if (call.done()) break;
      DSV3_RETURN_IF_ERROR(check_time([&] { return did_not_meet(call.last_error()); }));
      std::vector<pollfd> fds;
      int64_t until = until_ns_;
      call.add_poll(fds, until);
      wait(fds, until);
    }
    std::vector<Place> table(static_cast<size_t>(o_.world));
    std::memcpy(table.data(), call.reply().data(), table_bytes);
    return table;
  }

  Status choose_addresses(const std::vector<Place>& table, const Address& meeting_place) {
    for (int r = 0; r < o_.world; ++r) {
      const Place& place = table[static_cast<size_t>(r)];
      const std::string host = get_text(place.host);
      const std::string unix_name = get_text(place.unix_name);
      Address& address = links_.addresses[static_cast<size_t>(r)];
      if (o_.transport == "auto" && !host.empty() && host == get_text(own_.host) &&
          !unix_name.empty()) {
        address = unix_address(unix_name);
      } else if (r == 0) {
        address = meeting_place;
      } else if (r != o_.rank) {
        DSV3_ASSIGN_OR_RETURN(address, parse_tcp(get_text(place.tcp)));
      }
    }
    return {};
  }

  Status connect_pairs() {
    std::vector<Call> calls;
    calls.reserve(static_cast<size_t>(o_.rank));
    for (int r = 0; r < o_.rank; ++r)
      calls.emplace_back(r, links_.addresses[static_cast<size_t>(r)],
                         make_hello(o_, Purpose::kControl), sizeof(AnswerFrame));
    for (;;) {
      DSV3_RETURN_IF_ERROR(take_links(calls));
      std::vector<int> missing;
      for (int r = 0; r < o_.world; ++r)
        if (r != o_.rank && !links_.control[static_cast<size_t>(r)].valid()) missing.push_back(r);
      if (missing.empty()) return {};
      DSV3_RETURN_IF_ERROR(check_time([&] { return did_not_come(missing); }));
      std::vector<pollfd> fds;
      int64_t until = until_ns_;
      links_.door->add_poll(fds, until);
      for (const Call& call : calls) call.add_poll(fds, until);
      for (int r = 0; r < o_.world; ++r) DSV3_RETURN_IF_ERROR(watch_link(r, fds));
      wait(fds, until);
    }
  }

  // Takes the connections that have been made, by calls or by visitors.
  Status take_links(std::vector<Call>& calls) {
    for (Call& call : calls) {
      Fd& link = links_.control[static_cast<size_t>(call.rank())];
      if (link.valid()) continue;
      call.step();
      DSV3_RETURN_IF_ERROR(call.status());
      if (call.done()) link = call.take();
    }
    links_.door->receive();
    for (Visitor v = links_.door->take(Purpose::kControl, -1); v.fd.valid();
         v = links_.door->take(Purpose::kControl, -1)) {
      const int r = static_cast<int>(v.hello.rank);
      Fd& link = links_.control[static_cast<size_t>(r)];
      const bool welcome = r > o_.rank && !link.valid();
      if (send_answer(v.fd.get(), welcome ? Answer::kWelcome : Answer::kTaken) && welcome)
        link = std::move(v.fd);
    }
    return {};
  }

  // An error when rank r went, or says why it fails, while others are still missing. Nothing is
  // read: the mesh will.
  Status watch_link(int r, std::vector<pollfd>& fds) const {
    const Fd& link = links_.control[static_cast<size_t>(r)];
    if (!link.valid()) return {};
    const std::string rank = "rank " + std::to_string(r);
    if (is_closed(link.get()))
      return Status(Code::kPeerLost, rank + " closed its connection while the ranks were meeting");
    std::string bytes(kControlFrameMax, '\0');
    const ssize_t n = recv(link.get(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
    bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
    ControlKind kind;
    Fault fault;
    if (take_control_frame(bytes, kind, fault) == 1 && kind == ControlKind::kFault)
      return Status(fault.code, rank + " reports: " + fault.reason);
    if (n <= 0) fds.push_back({link.get(), POLLIN | POLLRDHUP, 0});
    return {};
  }

  // True when the other end is gone and left nothing to read.
  static bool is_closed(int fd) {
    char byte;
    const ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
  }

  std::string limit_text() const { return std::to_string(o_.connect_timeout_ms) + " ms"; }
  Status did_not_come(const std::vector<int>& missing) const {
    return Status(Code::kCollectiveTimeout, list(missing) + " did not come to the meeting at " +
                                                o_.rendezvous + " within " + limit_text());
  }

  Status did_not_meet(const std::string& last_error) const {
    return Status(Code::kCollectiveTimeout,
                  "the ranks did not meet at " + o_.rendezvous + " within " + limit_text() + ": " +
                      last_error,
                  "is rank 0 running, and is its port reachable from here?");
  }

  const MeshOptions& o_;
  int64_t until_ns_;
  Place own_;
  Links links_;
};

}  // namespace

Hello make_hello(const MeshOptions& options, Purpose purpose) {
  Hello hello;
  hello.world = static_cast<uint32_t>(options.world);
  hello.rank = static_cast<uint32_t>(options.rank);
  hello.purpose = static_cast<uint32_t>(purpose);
  hello.token_bytes = static_cast<uint32_t>(options.token.size());
  std::copy(options.token.begin(), options.token.end(), hello.token);
  return hello;
}

Result<Links> meet(const MeshOptions& options) {
  return Meeting(options).run();
}

}  // namespace dsv3::comm
