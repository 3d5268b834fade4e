// Ledger: who holds how many bytes of a device, by name, now and at most.
//
// Law: every byte that the runtime takes from a device passes through one arena and is booked here
// under a name, so that the printed sum is the whole and can be held against the planner's
// prediction line by line.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3::tensor {

struct LedgerEntry {
  std::string name;  // "weights", "activations/attention/q", "transient/logits", "workspace", …
  int64_t current_bytes = 0;
  int64_t peak_bytes = 0;  // of this name alone; names peak at different moments
};

// Books nothing by itself; not thread-safe. Adding to a name that exists allocates nothing.
class Ledger {
 public:
  // Index of the name, made on first use.
  int index(std::string_view name);
  void add(int entry, int64_t bytes);
  void subtract(int entry, int64_t bytes);

  const std::vector<LedgerEntry>& entries() const { return entries_; }
  // Bytes booked under a name or, with a trailing '/', under all names that begin so: the largest
  // sum seen of single peaks.
  int64_t peak_bytes(std::string_view name_or_prefix) const;
  int64_t current_bytes() const { return current_bytes_; }  // of all names
  int64_t peak_bytes() const { return peak_bytes_; }        // of the sum, at one moment

 private:
  std::vector<LedgerEntry> entries_;
  std::map<std::string, int, std::less<>> index_;
  int64_t current_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace dsv3::tensor
