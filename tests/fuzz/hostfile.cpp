// Fuzzes a hostfile; lines "#include FILTER" and "#exclude FILTER" are the options of those names.
//
// Law (hostfile.h): accepted hosts are named once, by names that no shell and no option parser
// reads otherwise, and written out again they are the same; a filter only leaves out.
#include <algorithm>
#include <set>
#include <string>

#include "base/check.h"
#include "base/text.h"
#include "cluster/inventory/hostfile.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {
namespace {

void check_hosts(const std::vector<inventory::Host>& hosts) {
  constexpr std::string_view kInNames =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  DSV3_CHECK(!hosts.empty());
  std::set<std::string> names;
  for (const inventory::Host& host : hosts) {
    DSV3_CHECK(host.name.find_first_not_of(kInNames) == std::string::npos && host.name[0] != '-');
    DSV3_CHECK(names.insert(host.name).second, host.name);
    DSV3_CHECK(!host.slots.empty() && std::is_sorted(host.slots.begin(), host.slots.end()));
  }
}

}  // namespace

Verdict try_hostfile(std::string_view bytes) {
  std::string include, exclude;
  for (const std::string& line : split(bytes, '\n')) {
    if (line.starts_with("#include ")) include = line.substr(9);
    if (line.starts_with("#exclude ")) exclude = line.substr(9);
  }
  const auto hosts = inventory::parse_hostfile(bytes, "hosts");
  if (!hosts.ok()) return Verdict::kRefused;
  check_hosts(*hosts);
  std::string text;
  for (const inventory::Host& host : *hosts) {
    text += std::string(static_cast<size_t>(host.line) - 1 -
                            static_cast<size_t>(std::count(text.begin(), text.end(), '\n')),
                        '\n');
    text += host.name + " slots=" + std::to_string(host.slots.size()) + "\n";
  }
  const auto again = inventory::parse_hostfile(text, "again");
  DSV3_CHECK(again.ok() && *again == *hosts, text);
  const auto kept = inventory::filter_hosts(*hosts, include, exclude);
  if (!kept.ok()) return Verdict::kRefused;
  check_hosts(*kept);
  for (const inventory::Host& host : *kept) {
    const auto whole = std::find_if(hosts->begin(), hosts->end(),
                                    [&](const auto& other) { return other.name == host.name; });
    DSV3_CHECK(whole != hosts->end() && std::includes(whole->slots.begin(), whole->slots.end(),
                                                      host.slots.begin(), host.slots.end()),
               host.name);
  }
  const auto cluster = inventory::cluster_of_hosts(*kept, 80, "");
  return cluster.ok() ? Verdict::kAccepted : Verdict::kRefused;
}

}  // namespace dsv3::fuzz
