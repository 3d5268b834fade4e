// Amounts as people write them on a command line: 300B tokens, $20K.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace dsv3::cli {

// "14.8T", "300B", "5K", "1e12", "20,000": a number with K, M, B (or G) or T behind it, above 0 and
// at most 9e18. kInvalid names `option` and the text.
Result<double> parse_amount(std::string_view option, const std::string& text);
// The same for tokens: a whole number from 1.
Result<int64_t> parse_tokens(std::string_view option, const std::string& text);

}  // namespace dsv3::cli
