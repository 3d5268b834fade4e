// How dsv3ctl prints: JSON objects, aligned tables, one-sentence errors, colours only on a
// terminal.
//
// Law: data on stdout, the rest on stderr; an error is never an empty list; exit codes are those of
// base/status.h.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// Prints the object on stdout with "schema_version": 1 in front, indented by two.
void print_json(const nlohmann::ordered_json& object);
// Prints one object on one line (metrics, events).
void print_json_line(const nlohmann::ordered_json& object);
// The error of `status` on stderr, as a sentence or as {"error": …} with --json; returns its exit
// code.
int fail(const Globals& globals, const Status& status);
// Text on stdout, as it is.
void print(std::string_view text);
// Whether all that was given to print() went out.
Status output_status();
// A line for people on stderr.
void note(std::string_view line);

// "key=value key=value": what a person reads of an event's payload (a JSON object); long texts are
// cut, empty ones left out.
std::string payload_text(const std::string& payload_json);

enum class Color { kNone, kBold, kDim, kRed, kGreen, kYellow };
// `text` in a colour when `enabled`.
std::string paint(std::string_view text, Color color, bool enabled);

// Columns of the terminal behind a descriptor; 0 when it is none, or doesn't say.
int terminal_columns(int fd);

// Columns as wide as their widest cell, two spaces between; numbers (cells of digits, signs,
// points, units) to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  // With `columns`, the last column is cut so that no line is longer.
  std::string render(bool color, int columns = 0) const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace dsv3::cli
