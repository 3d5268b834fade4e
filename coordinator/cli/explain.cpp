// dsv3ctl explain: what a key of the configuration means, from the field table.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "configs/spec/render.h"
#include "coordinator/cli/help.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {
namespace {

// Long lines go on under the column of their second part ("  name    sentence").
std::string in_columns(const std::string& text) {
  std::string out;
  for (const std::string& line : split(text, '\n')) {
    const size_t name = line.find_first_not_of(' ');
    const size_t gap = name == std::string::npos ? name : line.find("  ", name);
    const size_t column = gap == std::string::npos ? 2 : line.find_first_not_of(' ', gap);
    const bool in_two = gap != std::string::npos && column != std::string::npos;
    const size_t start = in_two ? column : std::min(name, line.size());
    out += line.substr(0, start) +
           wrap(line.substr(start), static_cast<int>(in_two ? column : 2),
                help_columns() - static_cast<int>(in_two ? column : 2)) +
           "\n";
  }
  out.pop_back();
  return out;
}

}  // namespace

Verb make_explain() {
  auto key = std::make_shared<std::string>();
  Verb verb;
  verb.name = "explain";
  verb.group = "Plan";
  verb.summary = "What a key of the configuration means, its range, default and other names";
  verb.help =
      "Examples:\n"
      "  dsv3ctl explain                            the sections\n"
      "  dsv3ctl explain model.moe                  the keys of a section\n"
      "  dsv3ctl explain model.mla.kv_lora_rank     one key";
  verb.options = {{"KEY",
                   key.get(),
                   "Dotted key or section; left out: the sections",
                   false,
                   Completes::kKey,
                   {}}};
  verb.run = [key](const Globals& globals) {
    auto text = spec::explain(*key);
    if (!text.ok()) return fail(globals, text.status());
    if (globals.json) {
      print_json({{"key", *key}, {"text", *text}});
    } else {
      print(in_columns(*text));
    }
    return 0;
  };
  return verb;
}

}  // namespace dsv3::cli
