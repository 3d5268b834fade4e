// Models whose normalisation table leads outside itself: the library would follow it.
//
// Law: what SentencePiece's own trainer makes passes (tests/fuzz/corpus/tokenizer/accept-charsmap
// has such a table); a table with one bad step does not.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/file.h"
#include "runtime/data/sentencepiece_check.h"
#include "runtime/data/tokenizer.h"

namespace dsv3::data {
namespace {

std::string field(int number, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  for (size_t n = bytes.size();; n >>= 7) {
    out += static_cast<char>((n & 0x7F) | (n > 0x7F ? 0x80 : 0));
    if (n <= 0x7F) return out + bytes;
  }
}

constexpr uint32_t kValue = 1u << 31;
constexpr uint32_t kLeaf = 1u << 8;

// normalizer_spec { precompiled_charsmap }: 256 units, of which the root leads to values, and "x".
std::string model_with(const std::vector<std::pair<size_t, uint32_t>>& changed,
                       const std::string& replacements = std::string("x\0", 2)) {
  std::vector<uint32_t> units(256, kValue);
  units[0] = 1u << 10;
  for (const auto& [at, unit] : changed) units[at] = unit;
  const uint32_t bytes = 4 * 256;
  std::string table(4 + bytes, '\0');
  std::memcpy(table.data(), &bytes, 4);
  std::memcpy(table.data() + 4, units.data(), bytes);
  return field(3, field(2, table + replacements));
}

TEST(SentencePieceCheck, ATableThatStaysInsideItselfPasses) {
  EXPECT_EQ(sentencepiece_fault(model_with({})), "");
  EXPECT_EQ(sentencepiece_fault(model_with({{7, 7 | kLeaf | 5u << 10}, {7 ^ 5, kValue | 1}})), "");
  EXPECT_EQ(sentencepiece_fault(""), "");
}

TEST(SentencePieceCheck, ATableThatLeadsOutsideIsAFault) {
  const auto is_damaged = [](const std::string& model) {
    return sentencepiece_fault(model) == "its normalisation table is damaged" &&
           !load_sentencepiece(model).ok();
  };
  EXPECT_TRUE(is_damaged(model_with({{0, 256u << 10}})));           // one unit behind the end
  EXPECT_TRUE(is_damaged(model_with({{0, kValue | 256u << 10}})));  // the root as a value
  EXPECT_TRUE(is_damaged(model_with({{9, 1u << 10 | 0x200u}})));    // the wide form of an offset
  EXPECT_TRUE(is_damaged(model_with({{0, kLeaf | 3u << 10}, {3, kValue | 2}})));  // its text
  EXPECT_TRUE(is_damaged(model_with({}, "x")));  // text without an end
  EXPECT_TRUE(is_damaged(model_with({}, "")));
  EXPECT_TRUE(is_damaged(field(3, field(2, std::string("\xFF\xFF\xFF\x7F", 4)))));
  EXPECT_TRUE(is_damaged(field(5, field(2, "abc"))));  // denormalizer_spec
}

// `count` rules, each one byte longer than the one before: aa… Unit 2k + 1 leads to 2k + 2's, whose
// value is at its base.
std::string model_with_rules_inside_each_other(uint32_t count) {
  std::vector<std::pair<size_t, uint32_t>> units;
  const auto base = [](uint32_t k) { return 4 * k; };
  units.emplace_back(0, base(1) << 10);
  for (uint32_t k = 1; k <= count; ++k) {
    const uint32_t at = base(k) ^ 1;
    units.emplace_back(at, 1 | kLeaf | (at ^ base(k + 1)) << 10);
    units.emplace_back(base(k + 1), kValue);
  }
  return model_with(units);
}

TEST(SentencePieceCheck, MoreRulesOnOneWayThanSentencePieceKeepsAreAFault) {
  EXPECT_EQ(sentencepiece_fault(model_with_rules_inside_each_other(32)), "");
  EXPECT_NE(sentencepiece_fault(model_with_rules_inside_each_other(33)), "");
  EXPECT_NE(sentencepiece_fault(model_with({{0, 0}, {5, 5 | 5u << 10}})), "");  // a circle
}

TEST(SentencePieceCheck, BytesThatAreNoMessageAreAFault) {
  EXPECT_NE(sentencepiece_fault("\xFF"), "");
  EXPECT_NE(sentencepiece_fault("\x0A\x7F"), "");  // longer than what is there
  EXPECT_NE(sentencepiece_fault("\x0B\x0C"), "");  // a group
  EXPECT_NE(sentencepiece_fault("\x0D\x01"), "");  // four bytes, one there
  EXPECT_NE(sentencepiece_fault(field(1, field(1, std::string("a\0b", 3)))), "");
}

TEST(SentencePieceCheck, ATrainedTablePasses) {
  const auto model =
      read_file(std::string(DSV3_SOURCE_DIR) + "/tests/fuzz/corpus/tokenizer/accept-charsmap");
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(sentencepiece_fault(*model), "");
  EXPECT_TRUE(load_sentencepiece(*model).ok());
}

}  // namespace
}  // namespace dsv3::data
