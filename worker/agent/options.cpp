// See options.h.
#include "worker/agent/options.h"

#include <fmt/format.h>

#include <charconv>

#include "base/file.h"

namespace dsv3::agent {
namespace {

template <typename Number>
Status parse_number(const std::string& flag, const std::string& text, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  if (error == std::errc() && end == text.data() + text.size() && *value >= 0) return {};
  return Status(Code::kInvalid, fmt::format("{} takes a number, not '{}'", flag, text));
}

}  // namespace

Result<Options> parse_options(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); i += 2) {
    const std::string& flag = args[i];
    if (i + 1 == args.size()) return Status(Code::kInvalid, fmt::format("{} takes a value", flag));
    const std::string& value = args[i + 1];
    if (flag == "--state-dir") {
      options.state_dir = value;
    } else if (flag == "--job") {
      options.job = value;
    } else if (flag == "--node") {
      options.node = value;
    } else if (flag == "--worker") {
      options.worker = value;
    } else if (flag == "--attempt") {
      DSV3_RETURN_IF_ERROR(parse_number(flag, value, &options.attempt));
    } else if (flag == "--orphan-ms") {
      DSV3_RETURN_IF_ERROR(parse_number(flag, value, &options.orphan_ms));
    } else {
      return Status(Code::kInvalid, fmt::format("unknown option '{}'", flag),
                    "dsv3-agent is started by the coordinator; use dsv3ctl");
    }
  }
  if (options.state_dir.empty() || options.job.empty() || options.node.empty()) {
    return Status(Code::kInvalid, "--state-dir, --job and --node are needed",
                  "dsv3-agent is started by the coordinator; use dsv3ctl");
  }
  if (options.worker.empty()) options.worker = executable_dir() + "/dsv3-worker";
  return options;
}

}  // namespace dsv3::agent
