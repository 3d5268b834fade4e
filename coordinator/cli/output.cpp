// Printing for people and for programs; see output.h.
#include "coordinator/cli/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
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

}  // namespace

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
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

std::string Table::render(bool color) const {
  std::vector<size_t> widths(header_.size());
  std::vector<bool> right(header_.size(), !rows_.empty());
  for (size_t c = 0; c < header_.size(); ++c) {
    widths[c] = width_of(header_[c]);
    for (const auto& row : rows_) {
      widths[c] = std::max(widths[c], width_of(row[c]));
      if (!row[c].empty() && row[c] != "–" && !is_number(row[c])) right[c] = false;
    }
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (size_t c = 0; c < cells.size(); ++c) {
      const std::string pad(widths[c] - width_of(cells[c]), ' ');
      text += right[c] ? pad + cells[c] : cells[c] + (c + 1 < cells.size() ? pad : "");
      if (c + 1 < cells.size()) text += "  ";
    }
    return text + "\n";
  };
  std::string out =
      header_.empty()
          ? ""
          : paint(line(header_).substr(0, line(header_).size() - 1), Color::kBold, color) + "\n";
  for (const auto& row : rows_) out += line(row);
  return out;
}

}  // namespace dsv3::cli
