// Hostfiles: which machines there are and how many GPUs each has, as DeepSpeed and Open MPI users
// write them.
//
//   # comment
//   worker-1 slots=8
//   worker-2 slots=8 max_slots=8   # Open MPI's word is read, and must not be below slots
//
// Law: PURE, and strict: a host is named once, by letters, digits, '.', '-' and '_', never with a
// '-' first (it would be an option of ssh), with the count of its GPUs. What breaks a rule is
// refused with its file, line and column; nothing is guessed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cluster/plan/cluster_spec.h"

namespace dsv3::inventory {

inline constexpr int kHostSlotsMax = 1024;    // GPUs of one machine
inline constexpr int64_t kHostsMax = 65'536;  // and of one file
inline constexpr int64_t kSlotsTotalMax = 65'536;
inline constexpr int64_t kHostfileBytesMax = int64_t{16} << 20;

struct Host {
  std::string name;
  std::vector<int> slots;  // the numbers of its GPUs in use, ascending: 0 … N-1 after parsing
  int line = 0;            // of the file, from 1
  bool operator==(const Host&) const = default;
};

// The hosts in the file's order; at least one. `file` is what errors call it. kInvalid with
// where() = "file:line:col".
Result<std::vector<Host>> parse_hostfile(std::string_view text, const std::string& file);

// DeepSpeed's filters: "host1:0,2@host2" is GPUs 0 and 2 of host1 and all of host2. Of `include`
// and `exclude` at most one is not empty; both empty: all hosts. kInvalid for a host or GPU that
// is not in the file, one that is named twice, and when nothing is left.
Result<std::vector<Host>> filter_hosts(const std::vector<Host>& hosts, std::string_view include,
                                       std::string_view exclude);

// One node per host, with as many GPUs of `label_gb` GB as it has slots. A layout is planned over
// equal nodes: kInvalid, with the first two that differ, when they are not.
Result<plan::ClusterSpec> cluster_of_hosts(const std::vector<Host>& hosts, double label_gb,
                                           const std::string& gpu_name);

}  // namespace dsv3::inventory
