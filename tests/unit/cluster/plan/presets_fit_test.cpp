// What the comments of the presets say of the GPUs that hold them, against the planner.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <regex>

#include "base/file.h"
#include "base/text.h"
#include "cluster/plan/plan.h"
#include "configs/spec/presets.h"

namespace dsv3::plan {
namespace {

// "# Fits, at seq_length S (…): with fp32 states N x GB, N x GB GB; with …." with its lines joined.
std::string fits_sentence(const std::string& text) {
  std::string sentence;
  for (const std::string& line : split(text, '\n')) {
    if (sentence.empty() && !line.starts_with("# Fits, at seq_length ")) continue;
    sentence += (sentence.empty() ? "" : " ") + line.substr(2);
    if (line.ends_with('.')) break;
  }
  return sentence;
}

// How many of moments and gradients stay in fp32; -1: the job doesn't fit.
int fp32_states(const spec::JobSpec& job, int64_t gpus, double label_gb) {
  const Plan found = plan(job, cluster_of_gpus(gpus, label_gb, ""));
  if (!found.feasible) return -1;
  return (found.layout.moments_dtype == "fp32" ? 1 : 0) +
         (found.layout.grads_dtype == "fp32" ? 1 : 0);
}

// The next smaller count of GPUs that the comments count in: whole nodes beyond 32.
int64_t smaller(int64_t gpus) {
  return gpus > 32 ? gpus - 8 : gpus - 1;
}

// N GPUs hold the preset with at least so many states in fp32, and the next smaller counts don't.
void expect_fewest(const std::string& name, const spec::JobSpec& job, int64_t gpus, double label_gb,
                   int at_least) {
  const std::string says = fmt::format("{}: {} x {} GB", name, gpus, label_gb);
  EXPECT_GE(fp32_states(job, gpus, label_gb), at_least) << says;
  int64_t fewer = smaller(gpus);
  for (int i = 0; i < 6 && fewer > 0; ++i, fewer = smaller(fewer)) {
    EXPECT_LT(fp32_states(job, fewer, label_gb), at_least) << says << ", but " << fewer << " do";
  }
}

TEST(Presets, FitWhatTheirCommentsSay) {
  const Result<std::vector<spec::Preset>> presets = spec::list_presets();
  ASSERT_TRUE(presets.ok()) << presets.status().to_string();
  int checked = 0;
  for (const spec::Preset& preset : *presets) {
    if (preset.gpus_min == 0) continue;
    const std::string sentence = fits_sentence(read_file(preset.file).value());
    ASSERT_NE(sentence, "") << preset.name;
    std::smatch words;
    ASSERT_TRUE(std::regex_search(sentence, words, std::regex(R"(seq_length (\d+))")));
    EXPECT_EQ(std::stoll(words[1]), preset.job.training.seq_length) << preset.name;
    for (const std::string& part : split(sentence, ';')) {
      const bool fp32 = part.find("fp32 states") != std::string::npos;
      const bool lowest = part.find("bf16 moments and gradients") != std::string::npos;
      ASSERT_TRUE(fp32 || part.find("bf16 moments") != std::string::npos) << part;
      const std::regex pair(R"((\d+) x (\d+))");
      for (std::sregex_iterator it(part.begin(), part.end(), pair), end; it != end; ++it, ++checked)
        expect_fewest(preset.name, preset.job, std::stoll((*it)[1]), std::stod((*it)[2]),
                      fp32     ? 2
                      : lowest ? 0
                               : 1);
    }
  }
  EXPECT_GE(checked, 40) << "pairs of GPUs and memory";
}

}  // namespace
}  // namespace dsv3::plan
