// dsv3ctl explain: what a key of the configuration means, from the field table.
#include <memory>
#include <nlohmann/json.hpp>

#include "configs/spec/render.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {

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
      print(*text);
    }
    return 0;
  };
  return verb;
}

}  // namespace dsv3::cli
