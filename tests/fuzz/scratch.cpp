// See scratch.h. Plain writes: nothing here has to survive a crash.
#include "tests/fuzz/scratch.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

#include "base/check.h"

namespace dsv3::fuzz {
namespace {

struct Folder {
  Folder() {
    std::error_code error;
    path = std::filesystem::is_directory("/dev/shm", error) ? "/dev/shm" : "/tmp";
    path += "/dsv3-fuzz-XXXXXX";
    DSV3_CHECK(::mkdtemp(path.data()) != nullptr);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string path;
};

}  // namespace

const std::string& scratch_folder() {
  static const Folder folder;
  return folder.path;
}

std::string put_file(const std::string& name, std::string_view bytes) {
  std::string path = scratch_folder() + "/" + name;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  DSV3_CHECK(fd >= 0, path);
  DSV3_CHECK(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), path);
  ::close(fd);
  return path;
}

}  // namespace dsv3::fuzz
