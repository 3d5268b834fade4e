// Real file systems for a test: a small one that can be filled and emptied, a read-only one, one of
// a program (FUSE). They are mounted in a mount namespace of this process, so that nobody else sees
// them and nothing is left behind, however the test ends.
//
// Law: where mounting is not allowed the caller skips, with the reason.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tests/e2e/run.h"

namespace dsv3::e2e {

// "" when this process may mount (from then on in a namespace of its own), else why not.
std::string why_no_mounts();

// A mount that ends with its object. Requires why_no_mounts() == "".
class Mount {
 public:
  // A file system in memory at `path` (created); `options` as "size=4m".
  static std::unique_ptr<Mount> memory(const std::string& path, const std::string& options);
  // What is at `path`, read-only.
  static std::unique_ptr<Mount> read_only(const std::string& path);
  // `source` at `path` by way of the program bindfs; null, with *why set, where it can't be.
  static std::unique_ptr<Mount> fuse(const std::string& source, const std::string& path,
                                     std::string* why);
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  // Takes all room but about `bytes_left`; the next call or empty() gives it back first.
  void fill(int64_t bytes_left = 0) const;
  void empty() const;

 private:
  explicit Mount(std::string path) : path_(std::move(path)) {}
  std::string ballast() const { return path_ + "/.ballast"; }

  std::string path_;
  std::unique_ptr<Running> program_;
};

}  // namespace dsv3::e2e
