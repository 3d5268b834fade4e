// See tour.h.
#include "tests/e2e/tour.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "base/text.h"

namespace dsv3::e2e {
namespace {

constexpr const char* kOpen = "```console";
constexpr const char* kClose = "```";
constexpr const char* kLeftOut = "...";

bool mentions(const std::string& words, std::initializer_list<const char*> verbs) {
  return std::any_of(verbs.begin(), verbs.end(), [&](const char* verb) {
    return words.find(fmt::format("dsv3ctl {}", verb)) != std::string::npos;
  });
}

// What a command prints is the same on every machine and every day.
bool is_exact(const std::string& words) {
  return mentions(words, {"recommend", "plan", "params", "explain", "validate", "configs"});
}

std::string without_figures(std::string line) {
  static const std::regex number(R"([-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?)");
  static const std::regex size(R"(N ([KMGT]iB|B)\b)"), duration(R"((N[dhms] ?)+(?=\s|$|,))");
  static const std::regex blanks(R"(\s+)"), bar(R"(^\[[#.]+\])");
  static const std::regex peak(R"((bf16|fp32) GEMM)"), step(R"(\bstep\b)");
  line = std::regex_replace(line, bar, "[BAR]");
  line = std::regex_replace(line, peak, "TYPE GEMM");
  line = std::regex_replace(line, step, "steps");
  line = std::regex_replace(line, number, "N");
  line = std::regex_replace(line, size, "SIZE");
  line = std::regex_replace(line, duration, "T");
  line = std::regex_replace(line, blanks, " ");
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

bool is_progress(const std::string& line) {
  static const std::regex progress(R"(^\[[#.]+\] .* tok/s  eta .*)");
  return std::regex_match(line, progress);
}

bool is_passing_state(const std::string& line) {
  static const std::regex state(R"(^\S+-\d+ (QUEUED|PLANNING|LAUNCHING|RUNNING)\b.*)");
  return std::regex_match(line, state);
}

// How even the experts are is a figure of the run, and so are the words for it.
std::string without_verdict(const std::string& line) {
  static const std::regex verdict(
      R"((none|\d+(,\d+)*)\s+(excellent|good|imbalanced|dead experts)$)");
  return std::regex_replace(line, verdict, "N VERDICT");
}

// "ok       cpu          …" → "cpu"; "" for a line that goes on.
std::string check_name(const std::string& line) {
  static const std::regex check(R"(^(ok|warning|error)\s+(\S.{0,11}\S)\s\s.*)");
  std::smatch match;
  if (std::regex_match(line, match, check)) return match[2];
  return line.starts_with("ready") ? "ready" : "";
}

}  // namespace

std::vector<TourCommand> read_tour(const std::string& readme) {
  std::vector<TourCommand> tour;
  bool inside = false;
  int number = 0;
  for (const std::string& line : split(readme, '\n')) {
    ++number;
    if (line == kOpen || line == kClose) {
      inside = line == kOpen;
    } else if (inside && !tour.empty() && tour.back().words.ends_with("\\")) {
      tour.back().words += "\n" + line;
    } else if (inside && line.starts_with("$ ")) {
      tour.push_back({number, line.substr(2), {}});
    } else if (inside && !tour.empty()) {
      tour.back().output.push_back(line);
    }
  }
  return tour;
}

std::vector<std::string> normal_lines(const std::string& words,
                                      const std::vector<std::string>& lines) {
  if (is_exact(words)) return lines;
  std::vector<std::string> normal;
  const bool doctor = mentions(words, {"doctor"}), experts = mentions(words, {"experts"});
  for (size_t i = 0; i < lines.size(); ++i) {
    if (doctor) {
      const std::string name = lines[i] == kLeftOut ? kLeftOut : check_name(lines[i]);
      if (!name.empty()) normal.push_back(name);
      continue;
    }
    if (is_passing_state(lines[i])) continue;
    const bool drawn_over =
        is_progress(lines[i]) &&
        std::any_of(lines.begin() + static_cast<int64_t>(i) + 1, lines.end(), is_progress);
    if (drawn_over) continue;
    const std::string line = experts ? without_verdict(lines[i]) : lines[i];
    normal.push_back(line == kLeftOut ? kLeftOut : without_figures(line));
  }
  return normal;
}

std::string with_outputs(const std::string& readme,
                         const std::vector<std::vector<std::string>>& outputs) {
  const std::vector<std::string> lines = split(readme, '\n');
  std::string out;
  size_t command = 0;
  bool inside = false, goes_on = false;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    if (line == kOpen || line == kClose) inside = line == kOpen;
    const bool typed = inside && (goes_on || line.starts_with("$ "));
    if (!inside || typed || line == kOpen) out += line + (i + 1 < lines.size() ? "\n" : "");
    goes_on = typed && line.ends_with("\\");
    if (!typed || goes_on) continue;
    const std::vector<std::string>& output = outputs.at(command++);
    for (size_t n = 0; n < output.size(); ++n) {
      const bool drawn_over =
          is_progress(output[n]) &&
          std::any_of(output.begin() + static_cast<int64_t>(n) + 1, output.end(), is_progress);
      if (!drawn_over) out += output[n] + "\n";
    }
  }
  return out;
}

std::string tour_difference(const TourCommand& command, const std::vector<std::string>& printed) {
  const std::vector<std::string> wanted = normal_lines(command.words, command.output);
  const std::vector<std::string> got = normal_lines(command.words, printed);
  size_t at = 0;
  bool skipping = false;
  for (const std::string& line : wanted) {
    if (line == kLeftOut) {
      skipping = true;
      continue;
    }
    const size_t from = at;
    while (skipping && at < got.size() && got[at] != line) ++at;
    if (at >= got.size() || got[at] != line) {
      return fmt::format("README shows \"{}\", printed was \"{}\"", line,
                         from < got.size() ? got[from] : "nothing more");
    }
    ++at;
    skipping = false;
  }
  if (skipping || at == got.size()) return {};
  return fmt::format("README does not show \"{}\"", got[at]);
}

}  // namespace dsv3::e2e
