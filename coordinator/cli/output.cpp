// Printing for people and for programs; see output.h.
#include "coordinator/cli/output.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/text.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

Json with_version(const Json& object) {
  Json out;
  out["schema_version"] = 1;
  for (const auto& [key, value] : object.items()) out[key] = value;
  return out;
}

// Cells that read as numbers line up at the right.
bool is_number(const std::string& cell) {
  return !cell.empty() &&
         (std::isdigit(static_cast<unsigned char>(cell[0])) != 0 ||
          (cell.size() > 1 && (cell[0] == '-' || cell[0] == '+' || cell[0] == '.')));
}

// Characters on the screen: UTF-8 continuation bytes take no column.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// The text cut to that many characters, the last one a sign that there is more.
std::string clipped(const std::string& text, size_t columns) {
  if (width_of(text) <= columns) return text;
  size_t end = 0, shown = 0;
  while (end < text.size()) {
    if ((text[end] & 0xC0) != 0x80 && shown++ + 1 == columns) break;
    ++end;
  }
  return text.substr(0, end) + "…";
}

int output_error = 0;  // errno of the first write to stdout that failed

}  // namespace

void print(std::string_view text) {
  const bool whole = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  const bool flushed = std::fflush(stdout) == 0;
  if (!(whole && flushed) && output_error == 0) output_error = errno;
}

Status output_status() {
  if (output_error == 0) return {};
  return Status(Code::kFailed,
                fmt::format("cannot write the output: {}", std::strerror(output_error)),
                "what is on stdout is not whole");
}

void note(std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fputc('\n', stderr);
}

void print_json(const Json& object) {
  print(with_version(object).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void print_json_line(const Json& object) {
  print(object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

int fail(const Globals& globals, const Status& status) {
  if (globals.json) {
    Json error;
    error["code"] = code_name(status.code());
    error["message"] = status.message();
    error["hint"] = status.hint();
    error["where"] = status.where();
    note(Json{{"error", error}}.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    note("dsv3ctl: " + one_line(status.to_string()));
  }
  return static_cast<int>(status.code());
}

std::string paint(std::string_view text, Color color, bool enabled) {
  if (!enabled || color == Color::kNone) return std::string(text);
  const char* code = "0";
  switch (color) {
    case Color::kNone:
      break;
    case Color::kBold:
      code = "1";
      break;
    case Color::kDim:
      code = "2";
      break;
    case Color::kRed:
      code = "31";
      break;
    case Color::kGreen:
      code = "32";
      break;
    case Color::kYellow:
      code = "33";
      break;
  }
  return fmt::format("\033[{}m{}\033[0m", code, text);
}

int terminal_columns(int fd) {
  winsize size{};
  return ::isatty(fd) != 0 && ::ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string Table::render(bool color, int columns) const {
  std::vector<size_t> widths(header_.size());
  std::vector<bool> right(header_.size(), !rows_.empty());
  for (size_t c = 0; c < header_.size(); ++c) {
    widths[c] = width_of(header_[c]);
    for (const auto& row : rows_) {
      widths[c] = std::max(widths[c], width_of(row[c]));
      if (!row[c].empty() && row[c] != "–" && !is_number(row[c])) right[c] = false;
    }
  }
  size_t before_last = 0;
  for (size_t c = 0; c + 1 < widths.size(); ++c) before_last += widths[c] + 2;
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (size_t c = 0; c < cells.size(); ++c) {
      const std::string pad(widths[c] - width_of(cells[c]), ' ');
      const bool last = c + 1 == cells.size();
      text += right[c] ? pad + cells[c] : cells[c] + (last ? "" : pad);
      if (!last) text += "  ";
    }
    const auto most = static_cast<size_t>(columns);
    return (most > before_last ? clipped(text, most) : text) + "\n";
  };
  std::string out =
      header_.empty()
          ? ""
          : paint(line(header_).substr(0, line(header_).size() - 1), Color::kBold, color) + "\n";
  for (const auto& row : rows_) out += line(row);
  return out;
}

}  // namespace dsv3::cli
