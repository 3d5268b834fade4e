// By rename and dup2, so that a writer between the two still writes whole lines; see log_file.h.
#include "base/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

namespace dsv3::log {
namespace {

bool is_same(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace

void rotate_file(const std::string& path, int64_t bytes_max) {
  struct stat error_file {};
  struct stat out_file {};
  struct stat named {};
  if (::fstat(STDERR_FILENO, &error_file) != 0 || error_file.st_size <= bytes_max) return;
  if (::stat(path.c_str(), &named) != 0 || !is_same(error_file, named)) return;
  const bool out_too = ::fstat(STDOUT_FILENO, &out_file) == 0 && is_same(out_file, error_file);
  if (::rename(path.c_str(), (path + ".1").c_str()) != 0) return;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return;  // the old file goes on under its new name
  ::dup2(fd, STDERR_FILENO);
  if (out_too) ::dup2(fd, STDOUT_FILENO);
  ::close(fd);
}

}  // namespace dsv3::log
