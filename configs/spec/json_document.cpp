// JSON → Node, from nlohmann's SAX events, with the line and column that the library itself doesn't
// give: the text is fed through an iterator that remembers how far it was read.
#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "configs/spec/document.h"
#include "configs/spec/parse.h"

namespace dsv3::spec {
namespace {

// An input iterator over the text that publishes the offset of the last byte taken.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char* begin, size_t* offset)
      : at_(at), begin_(begin), offset_(offset) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    *offset_ = static_cast<size_t>(at_ - begin_);
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char* begin_;
  size_t* offset_;
};

class Sax : public nlohmann::json_sax<nlohmann::json> {
 public:
  Sax(std::string_view text, const std::string& file, const size_t& offset,
      std::vector<Diagnostic>& out)
      : text_(text), file_(file), offset_(offset), out_(out) {
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') line_starts_.push_back(i + 1);
    }
  }

  bool null() override { return scalar("null"); }
  bool boolean(bool v) override { return scalar(v ? "true" : "false"); }
  bool number_integer(number_integer_t v) override { return scalar(std::to_string(v)); }
  bool number_unsigned(number_unsigned_t v) override { return scalar(std::to_string(v)); }
  bool number_float(number_float_t, const string_t& s) override { return scalar(s); }
  bool string(string_t& s) override { return scalar(s, true); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Node::Kind::kMap); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Node::Kind::kSequence); }
  bool end_array() override { return close(); }
  bool key(string_t& s) override {
    stack_.back().key = Node{};
    stack_.back().key.text = s;
    stack_.back().key.quoted = true;
    stack_.back().key.where = where();
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    std::string what = e.what();
    // "[json.exception.parse_error.101] parse error at line 3, column 5: syntax error …": keep the
    // sentence.
    if (const size_t at = what.find("column "); at != std::string::npos) {
      if (const size_t colon = what.find(": ", at); colon != std::string::npos) {
        what = what.substr(colon + 2);
      }
    }
    // The library echoes the offending token, which is outside input: keep it printable and short.
    std::replace_if(
        what.begin(), what.end(), [](unsigned char c) { return c < 0x20; }, ' ');
    if (what.size() > 200) what = what.substr(0, 200) + "…";
    out_.push_back({Severity::kError, "JSON_SYNTAX", where(), "", "not valid JSON: " + what, ""});
    return false;
  }

  Node take() {
    while (!stack_.empty()) close();
    return std::move(root_);
  }

 private:
  struct Open {
    Node node;
    Node key;
  };

  // Position of the last byte read: a key's is its closing quote's, moved back to the opening one.
  std::string where() const {
    size_t at = std::min(offset_ > 0 ? offset_ - 1 : 0, text_.size());
    if (at < text_.size() && text_[at] == '"' && at > 0) {
      size_t back = at;
      while (back > 0) {
        --back;
        if (text_[back] != '"') continue;
        size_t slashes = 0;
        while (slashes < back && text_[back - 1 - slashes] == '\\') ++slashes;
        if (slashes % 2 == 0) break;
      }
      at = back;
    }
    const auto next = std::upper_bound(line_starts_.begin(), line_starts_.end(), at);
    return fmt::format("{}:{}:{}", file_, next - line_starts_.begin(), at - *(next - 1) + 1);
  }
  // A value stands where its key does: the lexer has read past a number's end when it reports it.
  std::string value_where() const {
    if (!stack_.empty() && !stack_.back().key.where.empty()) return stack_.back().key.where;
    return stack_.empty() ? file_ + ":1:1" : stack_.back().node.where;
  }
  bool scalar(std::string text, bool quoted = false) {
    Node n;
    n.text = std::move(text);
    n.quoted = quoted;
    n.where = value_where();
    add(std::move(n));
    return true;
  }
  bool open(Node::Kind kind) {
    if (stack_.size() >= static_cast<size_t>(kNestingMax)) {
      out_.push_back({Severity::kError, "TOO_DEEP", where(), "",
                      fmt::format("more than {} levels of nesting", kNestingMax), ""});
      return false;
    }
    Node n;
    n.kind = kind;
    n.where = value_where();
    stack_.push_back({std::move(n), {}});
    return true;
  }
  bool close() {
    Node done = std::move(stack_.back().node);
    stack_.pop_back();
    add(std::move(done));
    return true;
  }
  void add(Node n) {
    if (stack_.empty()) {
      root_ = std::move(n);
    } else if (stack_.back().node.kind == Node::Kind::kSequence) {
      stack_.back().node.items.push_back(std::move(n));
    } else {
      stack_.back().node.entries.push_back({std::move(stack_.back().key), std::move(n)});
    }
  }

  std::string_view text_;
  const std::string& file_;
  const size_t& offset_;
  std::vector<Diagnostic>& out_;
  Node root_;
  std::vector<Open> stack_;
  std::vector<size_t> line_starts_ = {0};
};

}  // namespace

Node read_json(std::string_view text, const std::string& file_name, std::vector<Diagnostic>& out) {
  size_t offset = 0;
  Sax sax(text, file_name, offset, out);
  const bool blank = text.find_first_not_of(" \t\r\n") == std::string_view::npos;
  if (!blank) {
    const char* begin = text.data();
    try {
      nlohmann::json::sax_parse(CountingIterator(begin, begin, &offset),
                                CountingIterator(begin + text.size(), begin, &offset), &sax);
    } catch (const std::exception& e) {
      out.push_back({Severity::kError, "JSON_SYNTAX", file_name, "",
                     std::string("not valid JSON: ") + e.what(), ""});
    }
  }
  Node root = sax.take();
  if (root.where.empty()) root.where = file_name + ":1:1";
  return root;
}

}  // namespace dsv3::spec
