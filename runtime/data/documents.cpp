// The ways of cutting; see documents.h.
#include "runtime/data/documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_bounds.h"

namespace dsv3::data {
namespace {

constexpr std::string_view kBlank = " \t\r\n\f\v";

bool blank(std::string_view text) {
  return text.find_first_not_of(kBlank) == std::string_view::npos;
}

}  // namespace

DocumentReader::DocumentReader(std::string_view text, const std::string& path, DocumentSplit split,
                               std::string_view separator)
    : text_(text), path_(path), split_(split), separator_(separator) {
  if (split_ == DocumentSplit::kAuto) {
    split_ = path.ends_with(".jsonl") ? DocumentSplit::kJsonl : DocumentSplit::kParagraphs;
  }
  if (split_ == DocumentSplit::kLines || split_ == DocumentSplit::kJsonl) separator_ = "\n";
}

// The text up to the separator or the end; goes on behind it.
std::string_view DocumentReader::take_until(std::string_view separator) {
  const size_t end = std::min(text_.find(separator, at_), text_.size());
  const std::string_view piece = text_.substr(at_, end - at_);
  at_ = std::min(end + separator.size(), text_.size());
  ++line_;
  return piece;
}

// Lines up to one of nothing but white space, without the last newline.
std::string_view DocumentReader::take_paragraph() {
  const size_t begin = at_;
  size_t end = begin;
  while (at_ < text_.size()) {
    const std::string_view line = take_until("\n");
    if (blank(line)) break;
    end = static_cast<size_t>(line.data() - text_.data()) + line.size();
  }
  return text_.substr(begin, end - begin);
}

bool DocumentReader::take_json(std::string_view line) {
  constexpr int64_t kValuesMax = 1'000'000;  // a document's text is one of them
  if (json_bounds(line).values > kValuesMax) {
    status_ = Status(Code::kInvalid, fmt::format("more than {} values in one line", kValuesMax),
                     "a line is an object with the document as its \"text\"",
                     fmt::format("{}:{}", path_, line_));
    return false;
  }
  const auto object = nlohmann::json::parse(line, nullptr, false);
  const bool usable = object.is_object() && object.contains("text") && object["text"].is_string();
  if (!usable) {
    status_ = Status(Code::kInvalid, "not a JSON object with a string \"text\"", "",
                     fmt::format("{}:{}", path_, line_));
    return false;
  }
  json_text_ = object["text"].get<std::string>();
  return true;
}

bool DocumentReader::next(std::string_view& document) {
  while (status_.ok() && at_ < text_.size()) {
    switch (split_) {
      case DocumentSplit::kAuto:
      case DocumentSplit::kParagraphs:
        document = take_paragraph();
        break;
      case DocumentSplit::kFiles:
        document = text_.substr(at_);
        at_ = text_.size();
        break;
      case DocumentSplit::kLines:
      case DocumentSplit::kSeparator:
        document = take_until(separator_);
        break;
      case DocumentSplit::kJsonl: {
        const std::string_view line = take_until(separator_);
        if (blank(line)) continue;
        if (!take_json(line)) return false;
        document = json_text_;
        break;
      }
    }
    if (!blank(document)) return true;
  }
  return false;
}

bool valid_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = p + text.size();
  while (p < end) {
    const unsigned char lead = *p++;
    if (lead < 0x80) continue;
    const int more = lead >= 0xC2 && lead <= 0xDF   ? 1
                     : lead >= 0xE0 && lead <= 0xEF ? 2
                     : lead >= 0xF0 && lead <= 0xF4 ? 3
                                                    : 0;
    if (more == 0 || end - p < more) return false;
    // The first continuation byte's range excludes overlong forms, surrogates and what is past
    // U+10FFFF.
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (p[0] < low || p[0] > high) return false;
    for (int i = 1; i < more; ++i) {
      if (p[i] < 0x80 || p[i] > 0xBF) return false;
    }
    p += more;
  }
  return true;
}

}  // namespace dsv3::data
