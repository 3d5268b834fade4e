// One node of the document into one field: type, range, choices, and the ways other programs say
// the same thing.
#pragma once

#include <vector>

#include "configs/spec/diagnostic.h"
#include "configs/spec/document.h"
#include "configs/spec/field_table.h"

namespace dsv3::spec {

// Writes `node`'s value into `field` of `job`. False, with a diagnostic added, when it has the
// wrong type or is out of range; the field is then unchanged. `kind` must not be kBatchTokens
// (parse.cpp divides that by the sequence length).
bool assign(const Field& field, AliasKind kind, const Node& node, JobSpec& job,
            std::vector<Diagnostic>& out);

// An integer in one of YAML's decimal forms ("16", "-1", "1e6", with kilo_suffix "8K"); nullopt
// with the reason in
// `*why` otherwise ("010" is refused: YAML 1.1 reads it as octal).
std::optional<int64_t> parse_integer(const Node& node, bool kilo_suffix, std::string* why);
// A finite number; same refusals.
std::optional<double> parse_number(const Node& node, std::string* why);

}  // namespace dsv3::spec
