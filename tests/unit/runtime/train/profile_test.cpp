// A step measured op by op: the arithmetic counted is the model's own count, the times sum to the
// step, and the numbers trained are the same as without looking.
#include "runtime/train/profile.h"

#include <fmt/core.h>

#include <filesystem>
#include <set>

#include "configs/spec/counts.h"
#include "kernels/ops/profile.h"
#include "tests/unit/runtime/train/trainer_fixture.h"

namespace dsv3::train {
namespace {

using testing_support::TrainerFixture;

class ProfileTest : public TrainerFixture {
 protected:
  static constexpr int64_t kSteps = 2;
  // Measured once: the machine's limits take half a second. The model and batch are the same in
  // every test.
  const StepProfile& fresh_profile() {
    static const Result<StepProfile> profile =
        profile_steps({.spec = job_, .checkpoint_dir = folder_ / "none", .steps = kSteps});
    EXPECT_TRUE(profile.ok()) << profile.status().to_string();
    static const StepProfile nothing;
    return profile.ok() ? *profile : nothing;
  }
  static double flops_of(const StepProfile& profile, bool attention) {
    double sum = 0;
    for (const ProfileRow& row : profile.rows) {
      if (row.op.starts_with("mla_attention") == attention) sum += row.flops;
    }
    return sum;
  }
  // Every path below a folder, with its size and time of change.
  static std::set<std::string> files_in(const std::string& dir) {
    std::set<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
      files.insert(fmt::format("{} {} {}", entry.path().string(),
                               entry.is_regular_file() ? entry.file_size() : 0,
                               entry.last_write_time().time_since_epoch().count()));
    }
    EXPECT_FALSE(files.empty());
    return files;
  }
  static const ProfileRow* find(const StepProfile& profile, const std::string& op,
                                const std::string& role, const std::string& place) {
    for (const ProfileRow& row : profile.rows) {
      if (row.op == op && row.role == role && row.place == place) return &row;
    }
    return nullptr;
  }
};

// counts.h counts parameters that tokens pass through, profile.h what ops are called with.
TEST_F(ProfileTest, CountsTheModelsFlops) {
  const StepProfile& profile = fresh_profile();
  const spec::FlopsPerToken counted = spec::flops_per_token(job_.model, job_.training.seq_length);
  const auto tokens = static_cast<double>(profile.tokens);
  EXPECT_EQ(profile.tokens, job_.training.global_batch_size * job_.training.seq_length);
  // The core of every layer, MTP's too: forward 2 products, backward 5 of which one is the scores
  // again, where counts.h has 2 and 4.
  const double layers = static_cast<double>(job_.model.num_layers + job_.model.mtp_layers);
  const double core =
      counted.attention / static_cast<double>(job_.model.num_layers) * layers * tokens;
  const double qk = static_cast<double>(job_.model.mla.qk_head_dim());
  const double v = static_cast<double>(job_.model.mla.v_head_dim);
  EXPECT_NEAR(flops_of(profile, true), core * (1 + qk / (3 * (qk + v))), 1e-6 * core);
  const double all = counted.total_with_mtp * tokens;
  EXPECT_NEAR(flops_of(profile, false), all - core, 1e-9 * all);
}

TEST_F(ProfileTest, RowsAndTheRestSumToTheStep) {
  const StepProfile& profile = fresh_profile();
  double sum = profile.outside_s;
  for (const ProfileRow& row : profile.rows) {
    sum += row.seconds;
    EXPECT_GT(row.calls, 0) << row.op;
    EXPECT_GE(row.bytes, 0) << row.op;
  }
  EXPECT_NEAR(sum, profile.step_s, 1e-9);
  EXPECT_GE(profile.outside_s, 0);
  EXPECT_NEAR(profile.tokens_per_s * profile.step_s, static_cast<double>(profile.tokens), 1e-6);
  EXPECT_GT(profile.mfu, 0);
  EXPECT_GT(profile.copy_bytes_per_s, 0);
  EXPECT_GE(profile.peak_f32_flops_per_s, 1e9);
  for (size_t i = 1; i < profile.rows.size(); ++i)
    EXPECT_GE(profile.rows[i - 1].seconds, profile.rows[i].seconds);
}

TEST_F(ProfileTest, NamesThePlaceOfEveryProduct) {
  const StepProfile& profile = fresh_profile();
  const int64_t tokens = job_.training.micro_batch_size * job_.training.seq_length;
  const double micro = 2;  // micro-batches of a step
  const ProfileRow* q_b = find(profile, "gemm", "forward", "self_attn.q_b_proj");
  ASSERT_NE(q_b, nullptr);
  EXPECT_EQ(q_b->calls, micro * 4) << "three layers and an MTP module";
  EXPECT_EQ(q_b->shape, (std::vector<int64_t>{tokens, 2 * (8 + 4), 24}));
  for (const char* role : {"forward", "input grad"})
    EXPECT_NE(find(profile, "grouped_gemm", role, "mlp.experts.down_proj"), nullptr) << role;
  EXPECT_NE(find(profile, "grouped_gemm_weight_grad", "weight grad", "mlp.experts.gate_up_proj"),
            nullptr);
  EXPECT_NE(find(profile, "gemm", "weight grad", "lm_head"), nullptr);
  EXPECT_NE(find(profile, "rms_norm_forward", "", "norm"), nullptr);
  EXPECT_NE(find(profile, "embedding_forward", "", "embed_tokens"), nullptr);
  EXPECT_NE(find(profile, "gemm", "input grad", "mlp.gate"), nullptr);
  for (const ProfileRow& row : profile.rows) {
    const bool of_a_layer = row.flops > 0 && !row.op.starts_with("mla_attention");
    EXPECT_TRUE(!of_a_layer || !row.place.empty()) << row.op << " " << row.role;
  }
}

TEST_F(ProfileTest, StartsFromTheNewestCheckpointAndChangesNothing) {
  testing_support::Recorder recorder;
  run(recorder, "checkpoints");
  const std::string dir = folder_ / "checkpoints";
  const auto before = files_in(dir);
  const auto profile =
      profile_steps({.spec = job_, .checkpoint_dir = dir, .data_ranks = 2, .steps = 1});
  ASSERT_TRUE(profile.ok()) << profile.status().to_string();
  EXPECT_EQ(profile->first_step, job_.training.max_steps);
  EXPECT_EQ(profile->tokens, job_.training.global_batch_size / 2 * job_.training.seq_length);
  EXPECT_TRUE(profile->checkpoint.starts_with(dir)) << profile->checkpoint;
  EXPECT_EQ(files_in(dir), before);
}

// As a job before its first checkpoint.
TEST_F(ProfileTest, StartsFromInitialWeightsWhereThereIsNoCheckpoint) {
  EXPECT_EQ(fresh_profile().checkpoint, "");
  EXPECT_EQ(fresh_profile().first_step, 0);
  EXPECT_EQ(fresh_profile().steps, kSteps);
}

TEST_F(ProfileTest, LookingChangesNoBit) {
  const std::vector<int32_t> tokens = dsv3::testing_support::random_tokens(job_, 4);
  dsv3::testing_support::TinyModel plain(job_), watched(job_);
  ops::Profile profile;
  watched.device->profile_into(&profile);
  plain.accumulate(tokens, 2);
  watched.accumulate(tokens, 2);
  EXPECT_GT(profile.total_ns(), 0);
  watched.device->profile_into(nullptr);
  EXPECT_EQ(watched.grads(), plain.grads());
  EXPECT_EQ(watched.lm_loss(), plain.lm_loss());
}

TEST_F(ProfileTest, NoStepsAndAnUnevenShareAreRefused) {
  const auto none = profile_steps({.spec = job_, .steps = 0});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().code(), Code::kInvalid);
  const auto uneven = profile_steps({.spec = job_, .data_ranks = 3});
  ASSERT_FALSE(uneven.ok());
  EXPECT_EQ(uneven.status().code(), Code::kInvalid);
}

TEST(BeatsItsLimit, LooksAtWhatArithmeticLimits) {
  ProfileRow row{.seconds = 1, .limit_s = 1.04, .compute_bound = true};
  EXPECT_FALSE(beats_its_limit({row}));
  row.limit_s = 2.32;
  EXPECT_TRUE(beats_its_limit({ProfileRow{}, row}));
  row.compute_bound = false;  // a cache can beat the copy
  EXPECT_FALSE(beats_its_limit({row}));
  row.compute_bound = true;
  row.seconds = 0;
  EXPECT_FALSE(beats_its_limit({row}));
}

TEST(PlaceOfParameter, IsItsNameWithoutTheLayer) {
  EXPECT_EQ(place_of_parameter("model.layers.13.mlp.experts.down_proj"), "mlp.experts.down_proj");
  EXPECT_EQ(place_of_parameter("model.embed_tokens"), "embed_tokens");
  EXPECT_EQ(place_of_parameter("lm_head"), "lm_head");
  EXPECT_EQ(place_of_parameter("model.norm"), "norm");
}

}  // namespace
}  // namespace dsv3::train
