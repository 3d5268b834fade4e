// One entry of the dictionary as plain text.
//
// What the dictionary's markup becomes:
//   [1913 Webster]  [WordNet 1.5 +PJC]   the source of a paragraph: gone, with the line where it
//   leads one {Rhamnus Purshiana}                  a cross reference: its words
//   [=a] ['e] [aum] [ae] [thorn]         a letter with a mark, or a special one: the plain letters
//   [Obs.] [L. largus.]                  a label or an etymology: kept, it is part of the text
// Lines were wrapped and indented for a terminal: a paragraph becomes one line, each numbered sense
// too.
#include <algorithm>
#include <array>
#include <utility>

#include "runtime/data/demo_text.h"

namespace dsv3::data {
namespace {

constexpr size_t kSourceBytesMax = 80;

// Who wrote a paragraph: how the long names begin, and initials.
constexpr std::array<std::string_view, 5> kSources = {"1913 Webster", "Webster 1913",
                                                      "Webster Suppl", "WordNet", "Century Dict"};
constexpr std::array<std::string_view, 7> kInitials = {"PJC", "PJC.", "AS", "RDH",
                                                       "RP",  "GG",   "RH"};

// Letters that are spelt out.
constexpr std::array<std::pair<std::string_view, std::string_view>, 15> kLetters = {{
    {"ae", "ae"},
    {"oe", "oe"},
    {"AE", "Ae"},
    {"OE", "Oe"},
    {"thorn", "th"},
    {"eth", "th"},
    {"deg", " degrees"},
    {"root", "root "},
    {"ng", "ng"},
    {"th", "th"},
    {"=oo", "oo"},
    {"oocr", "oo"},
    {"oo^", "oo"},
    {"=ae", "ae"},
    {"yogh", "gh"},
}};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// True for what stands inside [1913 Webster +PJC].
bool is_source(std::string_view inside) {
  if (inside.empty() || inside.size() > kSourceBytesMax ||
      inside.find('[') != std::string_view::npos)
    return false;
  while (!inside.empty()) {
    const size_t plus = std::min(inside.find('+'), inside.size());
    std::string_view name = inside.substr(0, plus);
    inside.remove_prefix(std::min(plus + 1, inside.size()));
    name.remove_prefix(std::min(name.find_first_not_of(" \n"), name.size()));
    name = name.substr(0, name.find_last_not_of(" \n") + 1);
    const bool known = std::find(kInitials.begin(), kInitials.end(), name) != kInitials.end() ||
                       std::any_of(kSources.begin(), kSources.end(), [&](std::string_view source) {
                         return name.starts_with(source);
                       });
    if (!known) return false;
  }
  return true;
}

// The plain letters of ['e], [=a], [aum], [imac], [asl] …; "" for what is no special letter.
std::string_view plain_letters(std::string_view inside) {
  for (const auto& [code, letters] : kLetters) {
    if (inside == code) return letters;
  }
  constexpr std::array<std::string_view, 6> kMarks = {"um", "mac", "sl", "dd", "cr", "ac"};
  if (inside.size() >= 3 && is_letter(inside[0])) {
    const std::string_view mark = inside.substr(1);
    if (std::find(kMarks.begin(), kMarks.end(), mark) != kMarks.end()) return inside.substr(0, 1);
  }
  constexpr std::string_view kAccents = "=^'`~\".,-*+";
  if (inside.size() == 2 && is_letter(inside[0]) &&
      kAccents.find(inside[1]) != std::string_view::npos) {
    return inside.substr(0, 1);
  }
  if (inside.size() == 2 && is_letter(inside[1]) &&
      kAccents.find(inside[0]) != std::string_view::npos) {
    return inside.substr(1, 1);
  }
  return "";
}

// Without brackets that are tags, and without braces. A line that begins with a source's tag goes
// as a whole: what follows there is the next headword of the printed index.
std::string without_markup(std::string_view entry) {
  std::string text;
  for (size_t i = 0; i < entry.size(); ++i) {
    const char c = entry[i];
    if (c == '{' || c == '}' || c == '\r') continue;
    const size_t close = c == '[' ? entry.find(']', i) : std::string_view::npos;
    if (close == std::string_view::npos) {
      text += c;
      continue;
    }
    const std::string_view inside = entry.substr(i + 1, close - i - 1);
    if (is_source(inside)) {
      const size_t line = text.find_last_of('\n') + 1;  // npos + 1 is 0: the first line
      i = text.find_first_not_of(' ', line) == std::string::npos
              ? std::min(entry.find('\n', close), entry.size()) - 1
              : close;
    } else if (const std::string_view letters = plain_letters(inside); !letters.empty()) {
      text += letters;
      i = close;
    } else {
      text += c;
    }
  }
  return text;
}

// Ends the line that is being written, if there is one.
void end_line(std::string& text) {
  if (!text.empty() && text.back() != '\n') text += '\n';
}

// True for "   1. To kiss" and "   12. …": one of several senses.
bool is_numbered(std::string_view line) {
  line.remove_prefix(line.find_first_not_of(' '));
  const size_t digits = line.find_first_not_of("0123456789");
  return digits != std::string_view::npos && digits > 0 && line.substr(digits).starts_with(". ");
}

// Adds a line's words to the line that is being written, one space between any two.
void append_words(std::string& text, std::string_view line) {
  for (size_t at = line.find_first_not_of(" \t"); at != std::string_view::npos;) {
    const size_t end = std::min(line.find_first_of(" \t", at), line.size());
    if (!text.empty() && text.back() != '\n') text += ' ';
    text += line.substr(at, end - at);
    at = line.find_first_not_of(" \t", end);
  }
}

}  // namespace

std::string clean_entry(std::string_view entry) {
  const std::string text = without_markup(entry);
  std::string clean;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    if (line.find_first_not_of(" \t") == std::string_view::npos) {
      end_line(clean);
    } else {
      if (is_numbered(line)) end_line(clean);
      append_words(clean, line);
    }
  }
  end_line(clean);
  return clean;
}

}  // namespace dsv3::data
