// See amounts.h.
#include "coordinator/cli/amounts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>

namespace dsv3::cli {
namespace {

constexpr double kLargest = 9e18;

Status not_an_amount(std::string_view option, const std::string& text) {
  return Status(Code::kInvalid,
                fmt::format("{} takes a number like 300B or 20K, not '{}'", option, text),
                "K, M, B and T are thousands, millions, billions and trillions");
}

// 0: it is no unit.
double unit_of(std::string_view text) {
  if (text.empty()) return 1;
  if (text.size() > 1) return 0;
  switch (std::toupper(static_cast<unsigned char>(text[0]))) {
    case 'K':
      return 1e3;
    case 'M':
      return 1e6;
    case 'B':
    case 'G':
      return 1e9;
    case 'T':
      return 1e12;
    default:
      return 0;
  }
}

}  // namespace

Result<double> parse_amount(std::string_view option, const std::string& text) {
  std::string plain = text;
  plain.erase(std::remove(plain.begin(), plain.end(), ','), plain.end());
  // Not what strtod takes beside numbers: blanks, signs, hexadecimal digits, "inf", "nan".
  if (plain.empty() || plain.find_first_not_of("0123456789.eE+KkMmBbGgTt") != std::string::npos ||
      std::isdigit(static_cast<unsigned char>(plain[0])) == 0)
    return not_an_amount(option, text);
  char* end = nullptr;
  const double number = std::strtod(plain.c_str(), &end);
  const double unit = unit_of(end);
  if (unit == 0) return not_an_amount(option, text);
  const double amount = number * unit;
  if (!(amount > 0) || amount > kLargest)
    return Status(Code::kInvalid, fmt::format("{} is {}, which is out of range", option, text),
                  "give a number above 0");
  return amount;
}

Result<int64_t> parse_tokens(std::string_view option, const std::string& text) {
  DSV3_ASSIGN_OR_RETURN(const double amount, parse_amount(option, text));
  if (amount < 1)
    return Status(Code::kInvalid, fmt::format("{} is {}: at least one token", option, text));
  return static_cast<int64_t>(std::llround(amount));
}

}  // namespace dsv3::cli
