// Cuts a text file into documents.
//
// Law: documents are the file's own bytes in the file's order; only what separates them (blank
// lines, a separator, the JSON around a text) is left out, and documents of nothing but white space
// are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/data/prepare.h"

namespace dsv3::data {

class DocumentReader {
 public:
  // `text` and `separator` are borrowed. `path` decides kAuto and is named in errors.
  DocumentReader(std::string_view text, const std::string& path, DocumentSplit split,
                 std::string_view separator);

  // The next document, or false at the end or after an error (status()). The view lives until the
  // next call.
  bool next(std::string_view& document);
  const Status& status() const { return status_; }
  // Bytes of the file read so far.
  int64_t position_bytes() const { return static_cast<int64_t>(at_); }

 private:
  std::string_view take_until(std::string_view separator);
  std::string_view take_paragraph();
  bool take_json(std::string_view line);

  std::string_view text_;
  std::string path_;
  DocumentSplit split_;
  std::string_view separator_;
  size_t at_ = 0;
  int64_t line_ = 0;
  std::string json_text_;
  Status status_;
};

// True when the text is well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, at most
// U+10FFFF).
bool valid_utf8(std::string_view text);

}  // namespace dsv3::data
