// Log lines for people, on stderr or a file. The only home of spdlog is log.cpp.
//
// Law: logging never blocks a training step and never goes to stdout (stdout is data).
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>

namespace dsv3::log {

enum class Level { kDebug, kInfo, kWarning, kError };

// Names the process in every line ("dsv3d", "agent", "rank 0"). Call once, early; the level comes
// from DSV3CTL_LOG (debug|info|warning|error), default info.
void init(std::string_view process);
// Writes one line; thread-safe.
void write(Level level, std::string_view line);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace dsv3::log
