// Layers over a configuration: their order, what each changed, and the overlays that ship.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "configs/spec/presets.h"
#include "configs/spec/validate.h"
#include "tests/unit/configs/spec/helpers.h"

namespace dsv3::spec {
namespace {

LayerText overlay(std::string name, std::string text) {
  return {"overlay " + name, name + ".yaml", std::move(text), Format::kYaml};
}

Parsed layered(std::vector<LayerText> texts, std::vector<std::string> set = {}) {
  return parse(kSmallYaml, "f.yaml", Format::kYaml, {std::move(texts), std::move(set)});
}

TEST(Overlays, ALaterLayerWinsAndSetOverAll) {
  const LayerText a = overlay("a", "training: {max_steps: 20, seed: 5}\n");
  const LayerText b = overlay("b", "training:\n  max_steps: 30\n");
  const Parsed both = layered({a, b});
  ASSERT_TRUE(both.ok()) << text_of(both.diagnostics);
  EXPECT_EQ(both.job.training.max_steps, 30);
  EXPECT_EQ(both.job.training.seed, 5);
  EXPECT_EQ(both.job.model.d_model, 64) << "untouched";
  EXPECT_EQ(both.origins.at("training.max_steps"), "b.yaml:2:14");
  EXPECT_EQ(layered({b, a}).job.training.max_steps, 20);
  EXPECT_EQ(layered({a, b}, {"training.max_steps=40"}).job.training.max_steps, 40);
}

TEST(Overlays, EachSaysWhatItChangedOfWhatLayBelow) {
  const Parsed p = layered({overlay("a", "training: {max_steps: 20, dtype: bf16}\n"),
                            overlay("b", "training: {max_steps: 30, use_fp8: true}\n")},
                           {"training.max_steps=40"});
  ASSERT_EQ(p.applied.size(), 2u);
  EXPECT_EQ(p.applied[0].name, "overlay a");
  EXPECT_EQ(diff_text(p.applied[0].changes), "training.max_steps: 10 -> 20\n");
  EXPECT_EQ(diff_text(p.applied[1].changes),
            "training.max_steps: 20 -> 30\ntraining.dtype: bf16 -> fp8\n");
}

// A value that follows from a changed one changes too.
TEST(Overlays, DerivedValuesFollow) {
  const Parsed p =
      layered({overlay("a", "training: {global_batch_tokens: 128, seq_length: 16}\n")});
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.training.global_batch_size, 8);  // 128 / 16
  EXPECT_EQ(diff_text(p.applied[0].changes), "training.seq_length: 32 -> 16\n");
}

TEST(Overlays, FaultsStandInTheirOwnFile) {
  const Parsed p = layered({overlay("a", "training:\n  max_stesp: 20\n  seed: x\n")});
  ASSERT_EQ(p.diagnostics.size(), 2u) << text_of(p.diagnostics);
  EXPECT_EQ(p.diagnostics[0].where, "a.yaml:2:3");
  EXPECT_EQ(p.diagnostics[1].where, "a.yaml:3:9");
  EXPECT_NE(find(layered({overlay("a", "- 1\n")}).diagnostics, "NOT_A_MAPPING"), nullptr);
  EXPECT_NE(
      find(layered({overlay("a", "training: {seed: 1, seed: 2}\n")}).diagnostics, "DUPLICATE_KEY"),
      nullptr);
  for (const char* empty : {"", "# nothing\n", "---\n"}) {
    const Parsed nothing = layered({overlay("a", empty)});
    ASSERT_EQ(nothing.diagnostics.size(), 1u) << text_of(nothing.diagnostics);
    EXPECT_EQ(nothing.diagnostics[0].code, "EMPTY_FILE");
    EXPECT_EQ(nothing.diagnostics[0].where.substr(0, 6), "a.yaml");
  }
}

// Another spelling in a later layer is the same key, not a second one.
TEST(Overlays, SpellingsMeetAcrossLayers) {
  const Parsed p = layered({overlay("a", "model: {mla: {d_latent: 8}}\n")}, {"hidden_size=128"});
  ASSERT_TRUE(p.ok()) << text_of(p.diagnostics);
  EXPECT_EQ(p.job.model.mla.kv_lora_rank, 8);
  EXPECT_EQ(p.job.model.d_model, 128);
}

TEST(Overlays, UseFp8FalseTakesBackAndContradicts) {
  const LayerText fp8 = overlay("a", "training: {dtype: fp8}\n");
  EXPECT_EQ(layered({fp8}, {"training.use_fp8=false"}).job.training.dtype, "bf16");
  EXPECT_EQ(layered({overlay("b", "training: {use_fp8: false}\n"), fp8}).job.training.dtype, "fp8");
  for (const char* text :
       {"training: {dtype: fp8, use_fp8: false}\n", "training: {use_fp8: false, dtype: fp8}\n"}) {
    EXPECT_NE(find(layered({overlay("a", text)}).diagnostics, "DUPLICATE_KEY"), nullptr) << text;
  }
}

TEST(Overlays, ThoseThatShipFitEveryGpuPreset) {
  const Result<std::vector<std::string>> names = list_overlays();
  ASSERT_TRUE(names.ok());
  EXPECT_EQ(*names, (std::vector<std::string>{"max-quality", "max-throughput", "reduce-memory",
                                              "smaller-gpus"}));
  const Result<std::vector<Preset>> presets = list_presets();
  ASSERT_TRUE(presets.ok());
  for (const Preset& preset : *presets) {
    if (preset.gpus_min == 0) continue;
    for (const std::string& name : *names) {
      const Result<Parsed> p = load(LoadRequest{preset.name, {name}, "", {}});
      ASSERT_TRUE(p.ok()) << p.status().to_string();
      // smaller-gpus cuts DeepSeek-V3's widths: those of 20b and up.
      const bool enlarges = name == "smaller-gpus" && preset.job.model.d_model < 4096;
      EXPECT_EQ(p->diagnostics.size(), enlarges ? 1u : 0u) << preset.name << " " << name << "\n"
                                                           << text_of(p->diagnostics);
      EXPECT_EQ(find(p->diagnostics, "OVERLAY_ENLARGES") != nullptr, enlarges);
      ValidateOptions options;
      options.origins = &p->origins;
      const std::vector<Diagnostic> found = validate(p->job, options);
      EXPECT_FALSE(has_errors(found)) << preset.name << " " << name << "\n" << text_of(found);
      EXPECT_EQ(find(found, "NO_EFFECT"), nullptr) << preset.name << " " << name << text_of(found);
    }
  }
}

TEST(Overlays, TheGuidesAdjustmentsReachTheFull) {
  const Result<Parsed> p =
      load(LoadRequest{"deepseek_v3_base", {"smaller-gpus", "max-throughput"}, "", {}});
  ASSERT_TRUE(p.ok() && p->ok());
  EXPECT_EQ(p->job.model.d_model, 4096);
  EXPECT_EQ(p->job.model.mla.kv_lora_rank, 1024);
  EXPECT_EQ(p->job.model.moe.num_experts, 64);
  EXPECT_EQ(p->job.training.seq_length, 2048);
  EXPECT_EQ(p->job.training.dtype, "fp8");
  ASSERT_EQ(p->applied.size(), 2u);
  EXPECT_EQ(diff_text(p->applied[1].changes), "training.dtype: bf16 -> fp8\n");
}

TEST(Overlays, OneThatMakesTheModelLargerIsToldOf) {
  const LayerText wider = overlay("wide", "model: {d_model: 128}\n");
  const Parsed p = layered({wider});
  ASSERT_EQ(p.diagnostics.size(), 1u) << text_of(p.diagnostics);
  EXPECT_EQ(p.diagnostics[0].code, "OVERLAY_ENLARGES");
  EXPECT_EQ(p.diagnostics[0].severity, Severity::kWarning);
  EXPECT_EQ(p.diagnostics[0].where, "wide.yaml");
  EXPECT_NE(p.diagnostics[0].message.find("overlay wide"), std::string::npos);
  EXPECT_TRUE(layered({wider}, {"preset.accepts=OVERLAY_ENLARGES"}).diagnostics.empty());
  // A smaller model, a wider latent, and what --set makes larger are nobody's mistake.
  EXPECT_TRUE(layered({overlay("a", "model: {d_model: 32}\n")}).diagnostics.empty());
  EXPECT_TRUE(layered({overlay("a", "model: {mla: {kv_lora_rank: 24}}\n")}).diagnostics.empty());
  EXPECT_TRUE(
      layered({overlay("a", "training: {seed: 2}\n")}, {"model.d_model=128"}).diagnostics.empty());
}

TEST(Overlays, AnEmptyNameIsRefused) {
  const Result<Parsed> p = load(LoadRequest{"small", {""}, "", {}});
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.status().code(), Code::kInvalid);
  EXPECT_NE(p.status().message().find("overlay"), std::string::npos) << p.status().message();
  EXPECT_FALSE(p.status().hint().empty());
}

TEST(Overlays, AreFoundByNameOrPathAndGuessed) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "spec_overlays";
  ASSERT_TRUE(make_dirs(dir.string()).ok());
  const std::string mine = (dir / "mine.yaml").string();
  ASSERT_TRUE(write_file(mine, "training: {seed: 9}\n").ok());
  const Result<Parsed> p = load(LoadRequest{"small", {mine}, "", {}});
  ASSERT_TRUE(p.ok() && p->ok());
  EXPECT_EQ(p->job.training.seed, 9);
  EXPECT_EQ(p->applied[0].name, "overlay mine");
  const Result<Parsed> slip = load(LoadRequest{"small", {"max-quallity"}, "", {}});
  ASSERT_FALSE(slip.ok());
  EXPECT_EQ(slip.status().code(), Code::kNotFound);
  EXPECT_NE(slip.status().hint().find("'max-quality'"), std::string::npos) << slip.status().hint();
  EXPECT_EQ(load(LoadRequest{"small", {"no/such.yaml"}, "", {}}).status().code(), Code::kNotFound);
}

TEST(Diff, NamesKeysInTheTablesOrderAndNothingOfThePreset) {
  const JobSpec a = parse_yaml(kSmallYaml, "f.yaml").job;
  EXPECT_TRUE(diff(a, a).empty());
  const JobSpec b = parse_yaml(kSmallYaml, "f.yaml",
                               {"training.beta1=0.8", "model.mla.q_lora_rank=null",
                                "data.path=[0.3, a, 0.7, b]", "preset.use_case=else"})
                        .job;
  EXPECT_EQ(diff_text(diff(a, b)),
            "model.mla.q_lora_rank: 32 -> null\n"
            "training.beta1: 0.9 -> 0.8\n"
            "data.path: \"some/prefix\" -> [0.3, \"a\", 0.7, \"b\"]\n");
}

}  // namespace
}  // namespace dsv3::spec
