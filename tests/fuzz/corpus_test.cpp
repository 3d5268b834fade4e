// Replays every corpus in a normal build: each file is accepted or refused, none crashes.
//
// Law: a file's name is the oracle: accept-* must be accepted, refuse-* refused, anything else
// (found-*, what a fuzzer met) only survived. Each corpus has both kinds.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {
namespace {

constexpr uintmax_t kCorporaBytesMax = 300'000;

struct Format {
  const char* name;
  Verdict (*attempt)(std::string_view bytes);
};

const Format kFormats[] = {
    {"yaml_spec", try_yaml_spec},     {"hf_config", try_hf_config},
    {"hf_folder", try_hf_folder},     {"safetensors", try_safetensors},
    {"manifest", try_manifest},       {"indexed_dataset", try_indexed_dataset},
    {"wire_frames", try_wire_frames}, {"mesh_frames", try_mesh_frames},
    {"tokenizer", try_tokenizer},     {"hostfile", try_hostfile},
    {"deepspeed", try_deepspeed},     {"calibration", try_calibration},
    {"plan_file", try_plan_file},     {"layout_text", try_layout_text},
};

const std::filesystem::path kCorpora = std::filesystem::path(DSV3_SOURCE_DIR) / "tests/fuzz/corpus";

class Corpus : public testing::TestWithParam<Format> {};

TEST_P(Corpus, IsAcceptedOrRefusedAsItsNamesSay) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(kCorpora / GetParam().name))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  int accepted = 0, refused = 0;
  for (const auto& file : files) {
    const auto bytes = read_file(file.string());
    ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
    const bool ok = GetParam().attempt(*bytes) == Verdict::kAccepted;
    const std::string name = file.filename().string();
    if (name.starts_with("accept-")) {
      EXPECT_TRUE(ok) << file;
      ++accepted;
    } else if (name.starts_with("refuse-")) {
      EXPECT_FALSE(ok) << file;
      ++refused;
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_GT(refused, 0);
}

INSTANTIATE_TEST_SUITE_P(Fuzz, Corpus, testing::ValuesIn(kFormats),
                         [](const auto& format) { return std::string(format.param.name); });

TEST(Corpora, AreSmallAndEachHasItsFormat) {
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kCorpora)) {
    if (entry.is_regular_file()) {
      bytes += entry.file_size();
      continue;
    }
    const std::string folder = entry.path().filename().string();
    EXPECT_TRUE(std::any_of(std::begin(kFormats), std::end(kFormats), [&](const Format& format) {
      return folder == format.name;
    })) << folder;
  }
  EXPECT_LT(bytes, kCorporaBytesMax);
}

}  // namespace
}  // namespace dsv3::fuzz
