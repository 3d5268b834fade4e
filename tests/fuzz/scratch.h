// A folder for readers that take a path, not bytes.
//
// Law: one per process, in memory where the system has such a place, removed at the end.
#pragma once

#include <string>
#include <string_view>

namespace dsv3::fuzz {

// The folder's path, made at the first call.
const std::string& scratch_folder();
// Replaces a file of it; gives its path.
std::string put_file(const std::string& name, std::string_view bytes);

}  // namespace dsv3::fuzz
