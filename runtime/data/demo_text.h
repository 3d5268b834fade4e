// The demo's text: the GNU Collaborative International Dictionary of English, from Debian's
// dict-gcide package.
//
// Law: the package is unpacked, never installed (installing it starts a server); the text that
// comes out depends on the package's bytes and the seed alone. Entries are cut by the dictionary's
// index, cleaned of the bracket tags that name their sources, shuffled, and written with
// kDemoSeparator between them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace dsv3::data {

// Stands alone on a line between two documents of the demo's text: a form feed. For
// PrepareOptions::separator.
inline constexpr std::string_view kDemoSeparator = "\f\n";

// A dictd database: gzip-compressed text and its index.
struct DictFiles {
  std::string dict_path;   // gcide.dict.dz
  std::string index_path;  // gcide.index: headword, offset, length
};

struct DemoTextOptions {
  DictFiles files;
  std::string out_path;
  int64_t seed = 1234;
};

struct DemoTextReport {
  int64_t num_documents = 0;
  int64_t text_bytes = 0;
};

// Runs `apt-get download dict-gcide` in `work_dir` (created) and gives the .deb's path. kFailed,
// with what to do instead, when apt-get is absent, fails, or takes longer than the deadline.
// Idempotent.
Result<std::string> fetch_dict_package(const std::string& work_dir, double deadline_s);
// Unpacks a .deb (dpkg-deb -x) below `work_dir` and finds the dictionary in it.
Result<DictFiles> unpack_dict_package(const std::string& deb_path, const std::string& work_dir,
                                      double deadline_s);
// Reads the dictionary, writes the cleaned and shuffled documents to out_path (atomically).
Result<DemoTextReport> write_demo_text(const DemoTextOptions& options);
// One dictionary entry without its source tags, markup and wrapping artefacts; "" when nothing is
// left.
std::string clean_entry(std::string_view entry);

// All of the above, once: `work_dir`/gcide.txt, made where it is absent. `source` may name a .deb,
// a .dict.dz (its .index beside it) or a ready text file to use instead of the download; ""
// downloads. Gives the text file's path.
Result<std::string> ensure_demo_text(const std::string& work_dir, const std::string& source,
                                     double deadline_s);

}  // namespace dsv3::data
