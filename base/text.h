// Small text helpers: spelling suggestions, numbers for people, numbers that read back exactly.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv3 {

// Edits (insert, delete, replace, swap of neighbours) from a to b.
int edit_distance(std::string_view a, std::string_view b);
// The nearest candidate within a third of the word's length (at least 1 edit), or "" when none is
// near.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);
// 1536 → "1.5 KiB", 3.2e10 → "29.80 GiB".
std::string human_bytes(int64_t bytes);
// 15290601984 → "15.29B", 407455744 → "407.5M", 8192 → "8,192".
std::string human_count(int64_t count);
// "407,455,744".
std::string with_commas(int64_t count);
// 93784 s → "1d 2h 3m", 75.2 → "1m 15s", 3.21 → "3.2s".
std::string human_duration(double seconds);
// The shortest decimal that reads back as the same double; "null" for NaN and infinities (JSON has
// neither).
std::string exact_number(double value);
std::vector<std::string> split(std::string_view text, char separator);
// Offset of the first byte that is not part of well-formed UTF-8 (RFC 3629: no overlong forms, no
// surrogates); npos when there is none.
size_t find_not_utf8(std::string_view text);
// The text as one printable line: control bytes are written as escapes ("\\n", "\\x1b").
std::string one_line(std::string_view text);

}  // namespace dsv3
