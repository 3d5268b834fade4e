// A mapped file that is cut short while it is read: the system answers the read with SIGBUS, which
// ends a process without a word. Here it ends with a sentence that names the file.
//
// Law: only what a signal handler may do is done in it; every MappedFile is on the list, beyond
// kMapsMax of them a fault goes unnamed.
#pragma once

#include <cstddef>
#include <string>

namespace dsv3 {

inline constexpr int kMapsMax = 1024;

// From now on a SIGBUS writes "PROGRAM: 'FILE' was cut short, or its disk failed, while it was
// read" on stderr and ends the process with `exit_code`. A SIGBUS anywhere else does what it always
// does. A later call replaces an earlier one.
void name_bus_errors(const char* program, int exit_code);

// MappedFile's: a map's place on the list (-1: the list is full), and off it again.
int list_map(const std::byte* begin, size_t size_bytes, const std::string& path);
void unlist_map(int place);

}  // namespace dsv3
