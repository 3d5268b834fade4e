// See hostfile.h. Lines are cut into words; a word keeps its column for the error that names it.
#include "cluster/inventory/hostfile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>

#include "base/text.h"

namespace dsv3::inventory {
namespace {

constexpr size_t kNameBytesMax = 253;   // of a DNS name
constexpr size_t kQuotedBytesMax = 60;  // of the file's text in an error
constexpr const char* kLineHint = "write one host per line: worker-1 slots=8";

struct Word {
  std::string_view text;
  size_t column = 1;
};

std::string quoted(std::string_view text) {
  return fmt::format("'{}{}'", one_line(text.substr(0, kQuotedBytesMax)),
                     text.size() > kQuotedBytesMax ? "…" : "");
}

std::vector<Word> words_of(std::string_view line) {
  line = line.substr(0, line.find('#'));
  std::vector<Word> words;
  size_t at = 0;
  while ((at = line.find_first_not_of(" \t\r", at)) != std::string_view::npos) {
    const size_t end = std::min(line.find_first_of(" \t\r", at), line.size());
    words.push_back({line.substr(at, end - at), at + 1});
    at = end;
  }
  return words;
}

// Decimal digits only; nullopt for anything else and for what an int cannot hold.
std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text[0] == '-' || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

// "" when it is a name, else what is wrong with it.
std::string name_fault(std::string_view name) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (name.size() > kNameBytesMax)
    return fmt::format("a host's name has {} characters, {} at most", name.size(), kNameBytesMax);
  if (name.find('@') != std::string_view::npos)
    return fmt::format("{} names a user; put User into ~/.ssh/config", quoted(name));
  if (!std::all_of(name.begin(), name.end(),
                   [&](char c) { return alphanumeric(c) || c == '.' || c == '-' || c == '_'; })) {
    return fmt::format("{} is no host: letters, digits, '.', '-' and '_' make a name",
                       quoted(name));
  }
  if (name.empty() || !alphanumeric(name[0]))
    return fmt::format("{} is no host: a name begins with a letter or a digit", quoted(name));
  return "";
}

class Parser {
 public:
  explicit Parser(const std::string& file) : file_(file) {}

  Result<std::vector<Host>> parse(std::string_view text) {
    if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);  // some editors' first bytes
    while (!text.empty()) {
      ++line_;
      const size_t end = text.find('\n');
      const std::vector<Word> words = words_of(text.substr(0, end));
      if (!words.empty()) DSV3_RETURN_IF_ERROR(add_host(words));
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    if (hosts_.empty())
      return Status(Code::kInvalid, "the hostfile names no host", kLineHint, file_);
    return std::move(hosts_);
  }

 private:
  Status fault(size_t column, std::string message, std::string hint = {}) const {
    return Status(Code::kInvalid, std::move(message), std::move(hint),
                  fmt::format("{}:{}:{}", file_, line_, column));
  }

  Status add_host(const std::vector<Word>& words) {
    const Word& name = words[0];
    if (const std::string wrong = name_fault(name.text); !wrong.empty())
      return fault(name.column, wrong);
    const auto [known, added] = lines_.emplace(std::string(name.text), line_);
    if (!added) {
      return fault(name.column,
                   fmt::format("host {} is on line {} too", quoted(name.text), known->second),
                   "name each host once, with all its slots");
    }
    std::optional<int> slots, slots_max;
    for (size_t i = 1; i < words.size(); ++i)
      DSV3_RETURN_IF_ERROR(read_option(words[i], &slots, &slots_max));
    if (!slots) {
      return fault(name.column + name.text.size(),
                   fmt::format("host {} does not say how many GPUs it has", quoted(name.text)),
                   fmt::format("write {} slots=8", name.text));
    }
    if (slots_max && *slots_max < *slots) {
      return fault(name.column, fmt::format("host {} has max_slots={}, below slots={}",
                                            quoted(name.text), *slots_max, *slots));
    }
    slots_total_ += *slots;
    if (slots_total_ > kSlotsTotalMax || static_cast<int64_t>(hosts_.size()) == kHostsMax) {
      return fault(name.column, fmt::format("the hostfile has more than {} GPUs", kSlotsTotalMax));
    }
    Host host{.name = std::string(name.text), .line = line_};
    for (int slot = 0; slot < *slots; ++slot) host.slots.push_back(slot);
    hosts_.push_back(std::move(host));
    return {};
  }

  // slots=N, max_slots=N, max-slots=N.
  Status read_option(const Word& word, std::optional<int>* slots, std::optional<int>* slots_max) {
    const size_t equals = word.text.find('=');
    const std::string_view key = word.text.substr(0, equals);
    const bool is_max = key == "max_slots" || key == "max-slots";
    if (equals == std::string_view::npos || (key != "slots" && !is_max)) {
      return fault(word.column,
                   fmt::format("{} is neither slots=N nor max_slots=N", quoted(word.text)),
                   kLineHint);
    }
    std::optional<int>* target = is_max ? slots_max : slots;
    if (*target) return fault(word.column, fmt::format("{} is there twice", quoted(key)));
    *target = number(word.text.substr(equals + 1));
    if (!*target || **target < 1 || **target > kHostSlotsMax) {
      return fault(word.column + equals + 1,
                   fmt::format("{} must be a whole number from 1 to {}", key, kHostSlotsMax));
    }
    return {};
  }

  const std::string& file_;
  int line_ = 0;
  int64_t slots_total_ = 0;
  std::vector<Host> hosts_;
  std::map<std::string, int, std::less<>> lines_;  // of the hosts so far
};

// A filter's hosts and GPUs, by the host's index.
using Chosen = std::map<size_t, std::set<int>>;

Status filter_fault(const char* option, std::string message) {
  return Status(Code::kInvalid, std::move(message),
                "write HOST or HOST:GPU,GPU, joined by @: worker-1:0,2@worker-2", option);
}

Result<Chosen> read_filter(const std::vector<Host>& hosts, std::string_view filter,
                           const char* option) {
  std::map<std::string_view, size_t> by_name;
  for (size_t i = 0; i < hosts.size(); ++i) by_name.emplace(hosts[i].name, i);
  Chosen chosen;
  for (const std::string& part : split(filter, '@')) {
    const size_t colon = part.find(':');
    const std::string name = part.substr(0, colon);
    const auto host = by_name.find(name);
    if (host == by_name.end())
      return filter_fault(option, fmt::format("host {} is not in the hostfile", quoted(name)));
    const std::vector<int>& slots = hosts[host->second].slots;
    const auto [entry, added] = chosen.try_emplace(host->second);
    if (!added) return filter_fault(option, fmt::format("host {} is named twice", quoted(name)));
    if (colon == std::string::npos) {
      entry->second.insert(slots.begin(), slots.end());
      continue;
    }
    for (const std::string& text : split(std::string_view(part).substr(colon + 1), ',')) {
      const std::optional<int> slot = number(text);
      if (!slot || !std::binary_search(slots.begin(), slots.end(), *slot)) {
        return filter_fault(option, fmt::format("host {} has {} GPUs, numbered from 0: no {}",
                                                quoted(name), slots.size(), quoted(text)));
      }
      if (!entry->second.insert(*slot).second) {
        return filter_fault(option,
                            fmt::format("GPU {} of host {} is named twice", *slot, quoted(name)));
      }
    }
  }
  return chosen;
}

}  // namespace

Result<std::vector<Host>> parse_hostfile(std::string_view text, const std::string& file) {
  return Parser(file).parse(text);
}

Result<std::vector<Host>> filter_hosts(const std::vector<Host>& hosts, std::string_view include,
                                       std::string_view exclude) {
  if (!include.empty() && !exclude.empty())
    return Status(Code::kInvalid, "--include and --exclude cannot be given together",
                  "leave one of them out");
  if (include.empty() && exclude.empty()) return hosts;
  const bool including = !include.empty();
  const char* option = including ? "--include" : "--exclude";
  DSV3_ASSIGN_OR_RETURN(const Chosen chosen,
                        read_filter(hosts, including ? include : exclude, option));
  std::vector<Host> kept;
  for (size_t i = 0; i < hosts.size(); ++i) {
    const auto entry = chosen.find(i);
    Host host{.name = hosts[i].name, .line = hosts[i].line};
    for (const int slot : hosts[i].slots) {
      const bool named = entry != chosen.end() && entry->second.contains(slot);
      if (named == including) host.slots.push_back(slot);
    }
    if (!host.slots.empty()) kept.push_back(std::move(host));
  }
  if (kept.empty()) return filter_fault(option, "the filter leaves no GPU");
  return kept;
}

Result<plan::ClusterSpec> cluster_of_hosts(const std::vector<Host>& hosts, double label_gb,
                                           const std::string& gpu_name) {
  plan::ClusterSpec cluster;
  for (const Host& host : hosts) {
    if (host.slots.size() != hosts[0].slots.size()) {
      return Status(
          Code::kInvalid,
          fmt::format("host '{}' has {} GPUs and '{}' {}: a job needs as many on every node",
                      hosts[0].name, hosts[0].slots.size(), host.name, host.slots.size()),
          "leave GPUs or hosts out with --include or --exclude");
    }
    plan::Node node{.name = host.name};
    plan::Device device{.kind = plan::DeviceKind::kCuda, .name = gpu_name};
    device.memory_bytes = plan::usable_gpu_bytes(label_gb);
    node.devices.assign(host.slots.size(), device);
    cluster.nodes.push_back(std::move(node));
  }
  return cluster;
}

}  // namespace dsv3::inventory
