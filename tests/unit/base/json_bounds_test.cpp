// The count of a JSON text's values, done by hand, and of bytes that are no JSON.
#include "base/json_bounds.h"

#include <gtest/gtest.h>

#include <string>

namespace dsv3 {
namespace {

TEST(JsonBounds, CountsValuesAndDepth) {
  const struct {
    const char* text;
    int64_t values, depth;
  } cases[] = {{"1", 1, 0},
               {"[]", 1, 1},
               {" { } ", 1, 1},
               {"[1,2,3]", 4, 1},
               {R"({"a": [1, {"b": []}], "c": null})", 6, 4},
               {R"(["a,b]", "\"[{", "\\", 1])", 5, 1},
               {"[[],[],[[[]]]]", 6, 4}};
  for (const auto& [text, values, depth] : cases) {
    EXPECT_EQ(json_bounds(text).values, values) << text;
    EXPECT_EQ(json_bounds(text).depth, depth) << text;
  }
}

TEST(JsonBounds, AnyBytesAreCountedInOnePass) {
  for (const char* text : {"", "\"", "\"\\", "]]]}}}", "[", "{\"a\"", ",,,", "\xff\xfe"})
    EXPECT_GE(json_bounds(text).values, 1) << text;
  EXPECT_EQ(json_bounds(std::string(1'000'000, '[')).depth, 1'000'000);
  EXPECT_EQ(json_bounds("[" + std::string(1'000'000, ' ') + "]").values, 1);
  EXPECT_GE(json_bounds(std::string(1'000'000, ',')).values, 1'000'000);
}

}  // namespace
}  // namespace dsv3
