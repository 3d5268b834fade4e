// See bus_error.h.
#include "base/bus_error.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace dsv3 {
namespace {

constexpr size_t kPathBytesMax = 512;  // the end of a longer one is what tells it apart

struct Map {
  std::atomic<bool> taken = false;
  std::atomic<const std::byte*> begin = nullptr;  // null while the rest is being written
  size_t size_bytes = 0;
  char path[kPathBytesMax] = {};
};

Map maps[kMapsMax];
char program_name[64] = {};
std::atomic<int> code = 1;

void say(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  const auto* at = static_cast<const std::byte*>(info->si_addr);
  for (const Map& map : maps) {
    const std::byte* begin = map.begin.load(std::memory_order_acquire);
    if (begin == nullptr || at < begin || at >= begin + map.size_bytes) continue;
    say(program_name);
    say(": '");
    say(map.path);
    say("' was cut short, or its disk failed, while it was read; files in use must not change\n");
    ::_exit(code);
  }
  ::signal(signal, SIG_DFL);  // not ours: the read that failed is tried again, and ends it
}

}  // namespace

void name_bus_errors(const char* program, int exit_code) {
  std::strncpy(program_name, program, sizeof program_name - 1);
  code = exit_code;
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

int list_map(const std::byte* begin, size_t size_bytes, const std::string& path) {
  for (int place = 0; place < kMapsMax; ++place) {
    Map& map = maps[place];
    if (map.taken.exchange(true)) continue;
    map.size_bytes = size_bytes;
    const size_t skip = path.size() < kPathBytesMax ? 0 : path.size() - kPathBytesMax + 1;
    std::memcpy(map.path, path.c_str() + skip, path.size() - skip + 1);
    map.begin.store(begin, std::memory_order_release);
    return place;
  }
  return -1;
}

void unlist_map(int place) {
  if (place < 0) return;
  maps[place].begin.store(nullptr, std::memory_order_release);
  maps[place].taken.store(false);
}

}  // namespace dsv3
