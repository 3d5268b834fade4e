// The log of a process that runs for months: it starts a new file before one fills the disk.
//
// Law: no line is lost or cut, and at most two files of about the limit are kept.
#pragma once

#include <cstdint>
#include <string>

namespace dsv3::log {

// Where this process's stderr is the file `path` and that has grown beyond `bytes_max`: the file
// becomes `path`.1, in place of an older one, and stderr (with stdout, where it is the same file) a
// new `path`. Else nothing.
void rotate_file(const std::string& path, int64_t bytes_max);

}  // namespace dsv3::log
