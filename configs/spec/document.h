// A parsed text as a plain tree with positions: what YAML and JSON have in common, free of either
// library's types.
//
// Law: reading never throws and never recurses deeper than kNestingMax; what the tree can't say
// (anchors, tags, merge keys, several documents) is a diagnostic, so that nothing after this stage
// has to think about it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "configs/spec/diagnostic.h"

namespace dsv3::spec {

struct MapEntry;

struct Node {
  enum class Kind { kScalar, kMap, kSequence };
  Kind kind = Kind::kScalar;
  std::string text;               // a scalar's text
  bool quoted = false;            // a quoted scalar is text, whatever it looks like
  std::string where;              // "file:line:col"
  std::vector<MapEntry> entries;  // a map's, in the file's order, duplicates kept
  std::vector<Node> items;        // a sequence's

  bool is_scalar() const { return kind == Kind::kScalar; }
  bool is_null() const;
  // "16", "a list", "a mapping": for messages.
  std::string describe() const;
};

struct MapEntry {
  Node key;
  Node value;
};

// The document's top node. On a fault of syntax: a diagnostic, and what was read before it
// (possibly an empty map).
Node read_yaml(std::string_view text, const std::string& file_name, std::vector<Diagnostic>& out);
Node read_json(std::string_view text, const std::string& file_name, std::vector<Diagnostic>& out);

}  // namespace dsv3::spec
