// Bookkeeping of the arena; see ledger.h.
#include "runtime/tensor/ledger.h"

#include <algorithm>

#include "base/check.h"

namespace dsv3::tensor {

int Ledger::index(std::string_view name) {
  const auto found = index_.find(name);
  if (found != index_.end()) return found->second;
  const int entry = static_cast<int>(entries_.size());
  entries_.push_back({std::string(name), 0, 0});
  index_.emplace(name, entry);
  return entry;
}

void Ledger::add(int entry, int64_t bytes) {
  LedgerEntry& e = entries_[static_cast<size_t>(entry)];
  e.current_bytes += bytes;
  e.peak_bytes = std::max(e.peak_bytes, e.current_bytes);
  current_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, current_bytes_);
}

void Ledger::subtract(int entry, int64_t bytes) {
  LedgerEntry& e = entries_[static_cast<size_t>(entry)];
  DSV3_CHECK(e.current_bytes >= bytes, e.name);
  e.current_bytes -= bytes;
  current_bytes_ -= bytes;
}

int64_t Ledger::peak_bytes(std::string_view name_or_prefix) const {
  const bool prefix = name_or_prefix.ends_with('/');
  int64_t bytes = 0;
  for (const LedgerEntry& e : entries_) {
    const std::string_view name = e.name;
    if (prefix ? name.starts_with(name_or_prefix) : name == name_or_prefix) bytes += e.peak_bytes;
  }
  return bytes;
}

}  // namespace dsv3::tensor
