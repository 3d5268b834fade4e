// The questions of `recommend` at a terminal, without one: defaults, wrong answers, the end of
// input.
#include "coordinator/cli/recommend_dialog.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/text.h"
#include "coordinator/cli/amounts.h"

namespace dsv3::cli {
namespace {

// Types the lines one after another, then ends.
struct Typist {
  std::vector<std::string> lines;
  std::vector<std::string> prompts, told;
  size_t next = 0;

  std::optional<DialogAnswers> answer(const plan::Hardware& at_hand = {}) {
    return ask_for_hardware(
        [this](const std::string& prompt) -> std::optional<std::string> {
          prompts.push_back(prompt);
          if (next == lines.size()) return std::nullopt;
          return lines[next++];
        },
        [this](const std::string& line) { told.push_back(line); }, at_hand);
  }
};

TEST(Dialog, EmptyLinesTakeTheDefaultsOfTheMachinesAtHand) {
  Typist typist{{"", "", "", "", ""}};
  const auto answers = typist.answer({16, 80, "NVIDIA H100 80GB HBM3", 8});
  ASSERT_TRUE(answers.has_value());
  EXPECT_EQ(answers->hardware.gpus, 16);
  EXPECT_EQ(answers->hardware.gpu_memory_gb, 80);
  EXPECT_EQ(answers->hardware.gpu_name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(answers->wishes.use_case, "");
  EXPECT_EQ(answers->wishes.tokens, 0);
  EXPECT_TRUE(typist.told.empty());
  EXPECT_NE(typist.prompts[0].find("[16]"), std::string::npos) << typist.prompts[0];
}

TEST(Dialog, AWrongAnswerIsToldAndAskedAgain) {
  Typist typist{{"-3", "lots", "2.5", "1e9", "8", "h10", " h100 ", "fun", "research", "hgih",
                 "$20,000", "some", "300B"}};
  const auto answers = typist.answer();
  ASSERT_TRUE(answers.has_value());
  EXPECT_EQ(typist.told.size(), 8u);
  EXPECT_EQ(answers->hardware.gpus, 8);
  EXPECT_EQ(answers->hardware.gpu_name, "h100");
  EXPECT_EQ(answers->hardware.gpu_memory_gb, 80);
  EXPECT_EQ(answers->wishes.use_case, "research");
  EXPECT_EQ(answers->wishes.budget_usd, 20'000);
  EXPECT_EQ(answers->wishes.tokens, 300'000'000'000);
}

TEST(Dialog, AnUnnamedCardIsAskedForItsMemory) {
  Typist typist{{"4", "-", "0", "48", "", "low", ""}};
  const auto answers = typist.answer();
  ASSERT_TRUE(answers.has_value());
  EXPECT_EQ(answers->hardware.gpu_name, "");
  EXPECT_EQ(answers->hardware.gpu_memory_gb, 48);
  EXPECT_EQ(answers->wishes.budget, "low");
  EXPECT_EQ(typist.told.size(), 1u);
}

TEST(Dialog, PromptsFitATerminalAndANumberForACardIsToldOfTheDash) {
  Typist typist{{"8", "80", "-", "80", "", "", ""}};
  ASSERT_TRUE(typist.answer({16, 80, "NVIDIA RTX 6000 Ada Generation", 8}).has_value());
  ASSERT_EQ(typist.told.size(), 1u);
  EXPECT_NE(typist.told[0].find("type - for a card by its memory"), std::string::npos)
      << typist.told[0];
  for (const std::string& prompt : typist.prompts) {
    for (const std::string& line : split(prompt, '\n')) EXPECT_LE(line.size(), 80u) << line;
  }
}

TEST(Dialog, NoGpusEndsTheQuestions) {
  Typist typist{{""}};
  const auto answers = typist.answer();
  ASSERT_TRUE(answers.has_value());
  EXPECT_EQ(answers->hardware.gpus, 0);
  EXPECT_EQ(typist.prompts.size(), 1u);
}

TEST(Dialog, TheEndOfInputEndsItWhereverItComes) {
  const std::vector<std::string> lines = {"8", "-", "80", "research", "high", "300B"};
  for (size_t n = 0; n < lines.size(); ++n) {
    Typist typist{{lines.begin(), lines.begin() + static_cast<int64_t>(n)}};
    EXPECT_FALSE(typist.answer().has_value()) << n;
  }
  Typist all{lines};
  EXPECT_TRUE(all.answer().has_value());
}

TEST(Amounts, UnitsAreThousandsMillionsBillionsTrillions) {
  for (const auto& [text, value] : {std::pair{"14.8T", 14.8e12},
                                    {"300B", 300e9},
                                    {"300G", 300e9},
                                    {"2m", 2e6},
                                    {"20K", 20e3},
                                    {"1e12", 1e12},
                                    {"20,000", 20e3},
                                    {"7", 7.0}}) {
    const auto amount = parse_amount("--x", text);
    ASSERT_TRUE(amount.ok()) << text;
    EXPECT_DOUBLE_EQ(*amount, value) << text;
  }
  for (const char* text : {"", "K", "-1", "0", "1KK", "0x10", "inf", "nan", " 1", "1 B", "1e99",
                           "3 apples", "1.2.3"}) {
    EXPECT_FALSE(parse_amount("--x", text).ok()) << text;
  }
  EXPECT_FALSE(parse_tokens("--x", "0.2").ok());
}

}  // namespace
}  // namespace dsv3::cli
