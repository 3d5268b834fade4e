// Spelling suggestions and numbers for people and for machines.
#include "base/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

namespace dsv3 {
namespace {

TEST(EditDistance, CountsInsertsDeletesReplacesAndSwaps) {
  EXPECT_EQ(edit_distance("experts", "experts"), 0);
  EXPECT_EQ(edit_distance("expert", "experts"), 1);
  EXPECT_EQ(edit_distance("exprets", "experts"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
}

TEST(DidYouMean, FindsNearNamesAndStaysSilentOtherwise) {
  const std::string_view keys[] = {"num_experts", "num_layers", "seed"};
  EXPECT_EQ(did_you_mean("num_expert", keys), "num_experts");
  EXPECT_EQ(did_you_mean("num_layesr", keys), "num_layers");
  EXPECT_EQ(did_you_mean("warmup", keys), "");
}

TEST(Numbers, ArePrintedForPeople) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(int64_t{5} << 30), "5.00 GiB");
  EXPECT_EQ(human_count(15290601984), "15.29B");
  EXPECT_EQ(human_count(8192), "8,192");
  EXPECT_EQ(human_count(14'784'920'000'000), "14.78T");
  EXPECT_EQ(with_commas(-1234567), "-1,234,567");
  EXPECT_EQ(with_commas(INT64_MIN), "-9,223,372,036,854,775,808");
  EXPECT_EQ(human_duration(75), "1m 15s");
  EXPECT_EQ(human_duration(93784), "1d 2h 3m");
}

TEST(ExactNumber, ReadsBackTheSameBits) {
  for (const double x : {0.1, 1.0 / 3.0, 9.0432167, 1e-300, -4.6, std::nextafter(4.6, 5.0)}) {
    EXPECT_EQ(std::strtod(exact_number(x).c_str(), nullptr), x);
  }
  EXPECT_EQ(exact_number(std::numeric_limits<double>::quiet_NaN()), "null");
  EXPECT_EQ(exact_number(std::numeric_limits<double>::infinity()), "null");
}

TEST(Split, KeepsEmptyParts) {
  EXPECT_EQ(split("a..b", '.'), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(split("", '.'), (std::vector<std::string>{""}));
}

TEST(Text, FindsTheFirstByteThatIsNotUtf8) {
  constexpr size_t kNone = std::string_view::npos;
  for (const char* good : {"", "plain", "größe", "\xef\xbb\xbf", "€", "\xf0\x9f\x98\x80",
                           "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf"})
    EXPECT_EQ(find_not_utf8(good), kNone) << good;
  // RFC 3629: stray and missing continuations, overlong forms, surrogates, beyond U+10FFFF.
  for (const char* bad :
       {"ab\x80", "ab\xc3", "ab\xc3(", "ab\xc0\x80", "ab\xc1\xbf", "ab\xe0\x9f\xbf",
        "ab\xed\xa0\x80", "ab\xf0\x8f\xbf\xbf", "ab\xf4\x90\x80\x80", "ab\xf5", "ab\xff"})
    EXPECT_EQ(find_not_utf8(bad), 2u) << bad;
}

TEST(Text, OneLineHasNoControlBytes) {
  EXPECT_EQ(one_line("a\nb\x1b[31mc\x7f"), "a\\nb\\x1b[31mc\\x7f");
  EXPECT_EQ(one_line("größe"), "größe");
}

}  // namespace
}  // namespace dsv3
