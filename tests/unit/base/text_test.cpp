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
  EXPECT_EQ(with_commas(-1234567), "-1,234,567");
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

}  // namespace
}  // namespace dsv3
