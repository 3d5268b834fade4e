// YAML → Node, from yaml-cpp's parse events. Events and not its node tree, because that keeps
// duplicate keys silently, ignores `<<`, expands aliases without a bound and loses the marks of
// keys.
#include <fmt/core.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <sstream>

#include "configs/spec/document.h"
#include "configs/spec/parse.h"

namespace dsv3::spec {
namespace {

constexpr int kRefusedMax = 10;

// Thrown by the builder through yaml-cpp to end the parse; caught in read_yaml.
struct TooDeep {};

class Builder : public YAML::EventHandler {
 public:
  Builder(const std::string& file, std::vector<Diagnostic>& out) : file_(file), out_(out) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_extras(mark, "", anchor);
    Node n = node(mark, Node::Kind::kScalar);
    add(std::move(n));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(mark, "an alias (*name) is not supported", "write the value out");
    add(node(mark, Node::Kind::kScalar));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_extras(mark, tag, anchor);
    Node n = node(mark, Node::Kind::kScalar);
    n.text = value;
    n.quoted = tag == "!";  // yaml-cpp's tag of quoted and block scalars
    add(std::move(n));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_extras(mark, tag, anchor);
    open(node(mark, Node::Kind::kSequence));
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_extras(mark, tag, anchor);
    open(node(mark, Node::Kind::kMap));
  }
  void OnMapEnd() override { close(); }

  Node take() {
    while (!open_.empty()) close();
    return std::move(root_);
  }
  std::string where(const YAML::Mark& mark) const {
    return fmt::format("{}:{}:{}", file_, mark.line + 1, mark.column + 1);
  }

 private:
  // A container being filled; a map's key waits for its value.
  struct Open {
    Node node;
    Node key;
    bool has_key = false;
  };

  Node node(const YAML::Mark& mark, Node::Kind kind) const {
    Node n;
    n.kind = kind;
    n.where = where(mark);
    return n;
  }
  void refuse(const YAML::Mark& mark, std::string message, std::string hint) {
    if (++num_refused_ > kRefusedMax) return;  // a file made of them says it once and again
    out_.push_back(
        {Severity::kError, "YAML_FEATURE", where(mark), "", std::move(message), std::move(hint)});
  }
  void refuse_extras(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) {
      refuse(mark, "an anchor (&name) is not supported", "write the value out where it is used");
    }
    if (!tag.empty() && tag != "!" && tag != "?") {
      refuse(mark, fmt::format("a tag ({}) is not supported", tag), "leave the tag out");
    }
  }
  void open(Node n) {
    if (open_.size() >= static_cast<size_t>(kNestingMax)) {
      out_.push_back({Severity::kError, "TOO_DEEP", n.where, "",
                      fmt::format("more than {} levels of nesting", kNestingMax), ""});
      throw TooDeep{};
    }
    open_.push_back({std::move(n), {}, false});
  }
  void close() {
    Node done = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(done));
  }
  void add(Node n) {
    if (open_.empty()) {
      root_ = std::move(n);
      return;
    }
    Open& top = open_.back();
    if (top.node.kind == Node::Kind::kSequence) {
      top.node.items.push_back(std::move(n));
    } else if (!top.has_key) {
      top.key = std::move(n);
      top.has_key = true;
    } else {
      top.node.entries.push_back({std::move(top.key), std::move(n)});
      top.has_key = false;
    }
  }

  const std::string& file_;
  std::vector<Diagnostic>& out_;
  Node root_;
  std::vector<Open> open_;
  int num_refused_ = 0;
};

}  // namespace

Node read_yaml(std::string_view text, const std::string& file_name, std::vector<Diagnostic>& out) {
  Builder builder(file_name, out);
  bool any = false;
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    any = parser.HandleNextDocument(builder);
    if (any) {
      std::vector<Diagnostic> ignored;
      Builder second(file_name, ignored);
      if (parser.HandleNextDocument(second)) {
        out.push_back({Severity::kError, "MULTIPLE_DOCUMENTS", file_name, "",
                       "the file holds more than one YAML document",
                       "keep one and remove the '---' lines"});
      }
    }
  } catch (const TooDeep&) {
    any = true;
  } catch (const YAML::Exception& e) {
    any = true;
    const std::string where = e.mark.is_null() ? file_name : builder.where(e.mark);
    out.push_back({Severity::kError, "YAML_SYNTAX", where, "", "not valid YAML: " + e.msg, ""});
  } catch (const std::exception& e) {
    any = true;
    out.push_back({Severity::kError, "YAML_SYNTAX", file_name, "",
                   std::string("not valid YAML: ") + e.what(), ""});
  }
  if (!any) {
    Node empty;
    empty.where = file_name + ":1:1";
    return empty;
  }
  return builder.take();
}

}  // namespace dsv3::spec
