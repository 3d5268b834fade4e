// Writing from the field table: canonical YAML, `explain`, and the README of configs/.
//
// Law: parse_yaml(to_yaml(x)).job == x for every valid x, with the last bit of every number; and
// there is no second copy of a field's documentation anywhere.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

// The comment that to_yaml() opens with. A file that has it gives no NO_EFFECT for its keys: nobody
// chose to write them (Origins::written_file).
inline constexpr std::string_view kWrittenMark =
    "# Every key, written by dsv3ctl; without this line, keys that change nothing are told of.\n";

// All keys, canonical names, in the table's order, under kWrittenMark; numbers are the shortest
// that read back exactly.
std::string to_yaml(const JobSpec& job);

// What `dsv3ctl explain KEY` prints: name, type, range, default, unit, sentence, aliases; for a
// section, its keys, one a line; "" as key: the sections. kNotFound with a did-you-mean hint
// otherwise.
Result<std::string> explain(const std::string& key);

// configs/README.md: how a file is read, the presets, and a table of every key.
std::string configs_readme();

}  // namespace dsv3::spec
