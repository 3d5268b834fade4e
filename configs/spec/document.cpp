// Node's own questions.
#include "configs/spec/document.h"

namespace dsv3::spec {

bool Node::is_null() const {
  if (kind != Kind::kScalar || quoted) return false;
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

std::string Node::describe() const {
  if (kind == Kind::kMap) return "a mapping";
  if (kind == Kind::kSequence) return "a list";
  if (is_null()) return "null";
  std::string shown = text.size() > 60 ? text.substr(0, 60) + "…" : text;
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return quoted ? "the text \"" + shown + "\"" : shown;
}

}  // namespace dsv3::spec
