// Checkpoints: bitwise round trips, damage of every kind, stale attempts, full disks, retention.
#include "runtime/checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "runtime/checkpoint/manifest.h"
#include "tests/unit/runtime/checkpoint/saved.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::checkpoint {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

std::vector<std::byte> read_all(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  EXPECT_NE(info, nullptr) << name;
  std::vector<std::byte> bytes(static_cast<size_t>(info->num_elements()) *
                               dtype_bytes(info->dtype));
  EXPECT_TRUE(checkpoint.read(name, bytes).ok());
  return bytes;
}

void expect_same(const std::vector<std::byte>& read, const void* expected) {
  EXPECT_EQ(std::memcmp(read.data(), expected, read.size()), 0);
}

TEST(Checkpoint, ReadsBackBitwiseWhatWasSaved) {
  const TemporaryFolder folder;
  const Saved source(folder.path());
  const auto saved = save(source.request);
  ASSERT_TRUE(saved.ok()) << saved.status().to_string();
  EXPECT_EQ(saved->path, folder / "step-00000010");
  const auto checkpoint = Checkpoint::open(saved->path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  EXPECT_EQ(checkpoint->job(), "job-1");
  EXPECT_EQ(checkpoint->step(), 10);
  EXPECT_EQ(checkpoint->attempt(), 1);
  EXPECT_EQ(checkpoint->spec_yaml(), source.request.spec_yaml);
  EXPECT_EQ(checkpoint->state().next_sample_idx, 123456789012);
  EXPECT_EQ(checkpoint->state().tokens_seen, 40960);
  EXPECT_EQ(checkpoint->state().compute_dtype, "bf16");
  EXPECT_EQ(checkpoint->state().extra, source.request.state.extra);
  EXPECT_EQ(checkpoint->tensors().size(), 4u);
  EXPECT_EQ(checkpoint->find("model.w")->shape, (std::vector<int64_t>{2, 3}));
  expect_same(read_all(*checkpoint, "model.w"), source.weight.data());
  expect_same(read_all(*checkpoint, "exp_avg.model.w"), source.moment.data());
  expect_same(read_all(*checkpoint, "half"), source.bias.data());
  EXPECT_TRUE(read_all(*checkpoint, "none").empty());
  EXPECT_EQ(read_file(folder / "latest_checkpointed_iteration.txt").value(), "10\n");
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
}

TEST(Checkpoint, ReadsAnyRangeAcrossPiecesAndShards) {
  const TemporaryFolder folder;
  Saved source(folder.path());
  source.request.tensors.clear();
  source.request.shard_bytes_max = 1000;  // each piece below is larger: a shard each
  const auto fill = [&](int64_t begin, std::span<std::byte> out) -> Status {
    std::memcpy(out.data(), source.moment.data() + begin, out.size());
    return {};
  };
  for (const auto& [begin, end] : {std::pair{700, 1000}, std::pair{0, 333}, std::pair{333, 700}}) {
    source.request.tensors.push_back({"m", DType::kF32, {10, 100}, nullptr, fill, begin, end});
  }
  const auto saved = save(source.request);
  ASSERT_TRUE(saved.ok()) << saved.status().to_string();
  EXPECT_EQ(count_in(saved->path, "shard-"), 3);
  const auto checkpoint = Checkpoint::open(saved->path).value();
  for (const auto& [begin, count] : {std::pair{0, 1000}, std::pair{332, 2}, std::pair{333, 367},
                                     std::pair{100, 800}, std::pair{999, 1}, std::pair{1000, 0}}) {
    std::vector<uint32_t> out(count);
    ASSERT_TRUE(checkpoint.read("m", std::as_writable_bytes(std::span(out)), begin, count).ok());
    EXPECT_TRUE(std::equal(out.begin(), out.end(), source.moment.begin() + begin)) << begin;
  }
  std::vector<uint32_t> out(2);
  EXPECT_FALSE(checkpoint.read("m", std::as_writable_bytes(std::span(out)), 999, 2).ok());
  EXPECT_FALSE(checkpoint.read("m", std::as_writable_bytes(std::span(out)), 0, 1).ok());
  EXPECT_EQ(checkpoint.read("n", std::as_writable_bytes(std::span(out)), 0, 2).code(),
            Code::kNotFound);
}

TEST(Checkpoint, RefusesPiecesThatDoNotMakeTheTensor) {
  const TemporaryFolder folder;
  for (const auto& ranges : std::vector<std::vector<std::pair<int64_t, int64_t>>>{{{0, 5}},
                                                                                  {{1, 6}},
                                                                                  {{0, 4}, {3, 6}},
                                                                                  {{0, 2}, {3, 6}},
                                                                                  {{0, 6}, {0, 6}},
                                                                                  {{0, 7}},
                                                                                  {{4, 2}}}) {
    Saved source(folder.path());
    source.request.tensors.clear();
    for (const auto& [begin, end] : ranges) {
      source.request.tensors.push_back(
          {"w", DType::kF32, {2, 3}, source.weight.data(), nullptr, begin, end});
    }
    EXPECT_EQ(save(source.request).status().code(), Code::kInvalid);
  }
  Saved source(folder.path());
  source.request.tensors[3].shape = {1};
  EXPECT_EQ(save(source.request).status().code(), Code::kInvalid) << "neither data nor fill";
  EXPECT_EQ(count_in(folder.path(), "step-"), 0);
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
}

TEST(Checkpoint, SeesAnyFlippedByteOfAnyFile) {
  const TemporaryFolder folder;
  Saved source(folder.path());
  source.request.shard_bytes_max = 64;
  const std::string path = save(source.request).value().path;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string file = entry.path().string();
    const size_t size = fs::file_size(file);
    for (size_t part = 0; part < 24; ++part) {
      const size_t at = part * (size - 1) / 23;
      flip_byte(file, at);
      const auto damaged = Checkpoint::open(path);
      ASSERT_FALSE(damaged.ok()) << file << " at " << at;
      EXPECT_EQ(damaged.status().code(), Code::kCheckpointUnusable);
      flip_byte(file, at);
    }
  }
  EXPECT_TRUE(Checkpoint::open(path).ok());
}

TEST(Checkpoint, SeesTruncatedMissingAndForeignFiles) {
  const TemporaryFolder folder;
  const std::string path = save(Saved(folder.path(), 10).request).value().path;
  Saved other(folder.path(), 20);
  other.weight[0] ^= 1;
  other.request.tensors[0].data = other.weight.data();
  const std::string other_path = save(other.request).value().path;
  const std::string shard = "/shard-00001-of-00001.safetensors";
  const std::string kept = read_file(path + shard).value();
  ASSERT_TRUE(write_file(path + shard, kept.substr(0, kept.size() - 1)).ok());
  EXPECT_EQ(Checkpoint::open(path, false).status().code(), Code::kCheckpointUnusable)
      << "seen without checksums too";
  fs::remove(path + shard);
  EXPECT_EQ(Checkpoint::open(path, false).status().code(), Code::kCheckpointUnusable);
  fs::copy_file(other_path + shard, path + shard);
  EXPECT_EQ(Checkpoint::open(path).status().code(), Code::kCheckpointUnusable)
      << "another checkpoint's shard";
  ASSERT_TRUE(write_file(path + shard, kept).ok());
  EXPECT_TRUE(Checkpoint::open(path).ok());
  // Another checkpoint's manifest, even with its seal: the shards' checksums do not fit it.
  for (const char* file : {"/manifest.json", "/complete"}) {
    fs::copy_file(other_path + file, path + file, fs::copy_options::overwrite_existing);
    EXPECT_EQ(Checkpoint::open(path).status().code(), Code::kCheckpointUnusable) << file;
  }
  EXPECT_EQ(Checkpoint::open(folder / "step-00000099").status().code(), Code::kNotFound);
}

TEST(Checkpoint, AManifestOfImpossibleNumbersOrDepthIsRefused) {
  const TemporaryFolder folder;
  const std::string path = save(Saved(folder.path(), 10).request).value().path;
  const std::string good = read_file(path + "/manifest.json").value();
  ASSERT_TRUE(parse_manifest(good, path).ok());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    EXPECT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), from.size(), to);
    return parse_manifest(text, path).status().code();
  };
  EXPECT_EQ(with("\"step\": 10", "\"step\": -10"), Code::kCheckpointUnusable);
  EXPECT_EQ(with("\"step\": 10", "\"step\": 4611686018427387904"), Code::kCheckpointUnusable);
  EXPECT_EQ(with("\"attempt\": 1", "\"attempt\": 0"), Code::kCheckpointUnusable);
  for (const char* number : {"1e300", "2.5", "9223372036854775808", "true", "null"}) {
    EXPECT_EQ(with("\"step\": 10", std::string("\"step\": ") + number), Code::kCheckpointUnusable);
    EXPECT_EQ(with("\"bytes\": ", std::string("\"bytes\": ") + number + ", \"was\": "),
              Code::kCheckpointUnusable);
  }
  std::string many = R"({"format":[0)";
  for (int i = 0; i < 20'000'000; ++i) many += ",0";
  const Status refused = parse_manifest(many + "]}", path).status();
  EXPECT_EQ(refused.code(), Code::kCheckpointUnusable);
  EXPECT_NE(refused.message().find("20000000 at most"), std::string::npos) << refused.message();
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  EXPECT_EQ(with("\"format_version\": 2", "\"format_version\": " + deep),
            Code::kCheckpointUnusable);
}

// The printer writes JSON by hand; a parser of others reads it.
TEST(Checkpoint, AManifestIsPrintedAsJsonWhateverItsNames) {
  Manifest manifest{.job = "a \"job\"\\", .attempt = 3, .step = 123456789012};
  manifest.spec_yaml = "a: 1\nb: \"\xc3\xa9\"\n";
  manifest.state = {.next_sample_idx = 5, .seed = -7, .extra = {{"k\"", "\x01"}}};
  manifest.shards = {{"s-1", INT64_MAX, "00ff"}, {"s-2", 0, ""}};
  EXPECT_EQ(nlohmann::json::parse(print_manifest(manifest))["tensors"].size(), 0U);
  const std::vector<std::string> names = {
      "plain.weight[0:3]", "quote\"", "back\\slash", "line\n", "\x7f\x1f", "\xc3\xa9t\xc3\xa9"};
  for (const std::string& name : names) {
    manifest.tensors.push_back(
        {{name, DType::kBf16, {2, 3, 4}},
         {{{0, 6, 0, 4}, 0, name}, {{1, 2, 0, 4}, 1, name + "'", 8}, {{0, 6, 1, 2}, 1, "k"}}});
  }
  manifest.tensors.push_back({{"number", DType::kF32, {}}, {}});
  manifest.tensors.push_back({{"not \xff UTF-8", DType::kI64, {0}}, {{{0, 1, 0, 0}, 1, "\xff"}}});
  const nlohmann::json json = nlohmann::json::parse(print_manifest(manifest));
  EXPECT_EQ(json["format_version"], kManifestVersion);
  EXPECT_EQ(json["job"], manifest.job);
  EXPECT_EQ(json["step"], manifest.step);
  EXPECT_EQ(json["spec"], manifest.spec_yaml);
  EXPECT_EQ(json["state"]["seed"], -7);
  EXPECT_EQ(json["state"]["extra"], nlohmann::json::parse(R"([["k\"", "\u0001"]])"));
  EXPECT_EQ(json["shards"][0]["bytes"], INT64_MAX);
  ASSERT_EQ(json["tensors"].size(), names.size() + 2);
  for (size_t i = 0; i < names.size(); ++i) {
    const nlohmann::json& tensor = json["tensors"][i];
    EXPECT_EQ(tensor["name"], names[i]);
    EXPECT_EQ(tensor["dtype"], "bf16");
    EXPECT_EQ(tensor["shape"], (std::vector<int64_t>{2, 3, 4}));
    const nlohmann::json pieces = {
        {{"shard", 0}, {"key", names[i]}},
        {{"rows", {1, 3}}, {"shard", 1}, {"key", names[i] + "'"}, {"offset", 8}},
        {{"cols", {1, 3}}, {"shard", 1}, {"key", "k"}}};
    EXPECT_EQ(tensor["pieces"], pieces);
  }
  EXPECT_EQ(json["tensors"][names.size()]["shape"].size(), 0U);
  EXPECT_EQ(json["tensors"][names.size()]["pieces"].size(), 0U);
  EXPECT_EQ(json["tensors"][names.size() + 1]["name"], "not \xef\xbf\xbd UTF-8");
}

TEST(Checkpoint, NewestValidSkipsTheDamagedAndSaysWhy) {
  const TemporaryFolder folder;
  EXPECT_EQ(newest_valid(folder / "absent").status().code(), Code::kNotFound);
  for (const int64_t step : {10, 20, 30, 40})
    ASSERT_TRUE(save(Saved(folder.path(), step).request).ok());
  flip_byte(folder / "step-00000040/shard-00001-of-00001.safetensors", 900);
  fs::remove(folder / "step-00000030/complete");
  fs::create_directories(folder / ".tmp-step-00000050-attempt-1");
  fs::create_directories(folder / "step-abc");
  const auto newest = newest_valid(folder.path());
  ASSERT_TRUE(newest.ok()) << newest.status().to_string();
  EXPECT_EQ(newest->step, 20);
  EXPECT_EQ(newest->path, folder / "step-00000020");
  ASSERT_EQ(newest->skipped.size(), 2u);
  EXPECT_NE(newest->skipped[0].second.find("never completed"), std::string::npos);
  EXPECT_NE(newest->skipped[1].second.find("checksum"), std::string::npos);
  EXPECT_EQ(find_checkpoint(folder.path()).value(), folder / "step-00000020");
  EXPECT_EQ(find_checkpoint(folder / "step-00000010").value(), folder / "step-00000010");
}

TEST(Checkpoint, SavingTheSameStepAgainChangesNothing) {
  const TemporaryFolder folder;
  const Saved source(folder.path());
  ASSERT_TRUE(save(source.request).ok());
  const auto again = save(source.request);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->existed);
  // Unless it was damaged: then it is made whole.
  flip_byte(folder / "step-00000010/manifest.json", 50);
  const auto repaired = save(source.request);
  ASSERT_TRUE(repaired.ok()) << repaired.status().to_string();
  EXPECT_FALSE(repaired->existed);
  EXPECT_TRUE(Checkpoint::open(repaired->path).ok());
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
}

TEST(Checkpoint, AHigherAttemptReplacesAStepAndIsNewerThanAnyStepOfALowerOne) {
  const TemporaryFolder folder;
  ASSERT_TRUE(save(Saved(folder.path(), 10, 1).request).ok());
  ASSERT_TRUE(save(Saved(folder.path(), 20, 1).request).ok());
  Saved second(folder.path(), 10, 2);
  second.weight[5] = 42;
  ASSERT_TRUE(save(second.request).ok());
  const auto checkpoint = Checkpoint::open(folder / "step-00000010").value();
  EXPECT_EQ(checkpoint.attempt(), 2);
  expect_same(read_all(checkpoint, "model.w"), second.weight.data());
  const auto newest = newest_valid(folder.path()).value();
  EXPECT_EQ(newest.step, 10) << "attempt 2 went on from before step 20 of attempt 1";
  EXPECT_EQ(newest.attempt, 2);
}

TEST(Checkpoint, AStaleAttemptCannotPublish) {
  const TemporaryFolder folder;
  ASSERT_TRUE(save(Saved(folder.path(), 10, 2).request).ok());
  EXPECT_EQ(save(Saved(folder.path(), 10, 1).request).status().code(), Code::kConflict);
  EXPECT_EQ(save(Saved(folder.path(), 99, 1).request).status().code(), Code::kConflict);
  EXPECT_TRUE(save(Saved(folder.path(), 20, 2).request).ok());
  // A claim fences before anything is saved, also while a save is under way.
  ASSERT_TRUE(claim(folder.path(), 3).ok());
  ASSERT_TRUE(claim(folder.path(), 3).ok());
  EXPECT_EQ(claim(folder.path(), 2).code(), Code::kConflict);
  EXPECT_EQ(save(Saved(folder.path(), 30, 2).request).status().code(), Code::kConflict);
  Saved late(folder.path(), 30, 3);
  late.request.tensors[0].data = nullptr;
  late.request.tensors[0].fill = [&](int64_t, std::span<std::byte>) {
    return claim(folder.path(), 4);
  };
  EXPECT_EQ(save(late.request).status().code(), Code::kConflict);
  EXPECT_EQ(count_in(folder.path(), "step-"), 2);
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
}

// Two state directories may both have a "demo-1"; so may one before and after it was emptied.
TEST(Checkpoint, AnotherSubmissionOfTheSameNameIsRefused) {
  const TemporaryFolder folder;
  ASSERT_TRUE(claim(folder.path(), 1).ok()) << "by hand: any submission's";
  ASSERT_TRUE(claim(folder.path(), 1, "1700").ok());
  EXPECT_EQ(claim(folder.path(), 1, "1701").code(), Code::kConflict);
  const Status later = claim(folder.path(), 2, "1701");
  EXPECT_EQ(later.code(), Code::kConflict);
  EXPECT_NE(later.message().find(folder.path()), std::string::npos) << later.message();
  EXPECT_TRUE(claim(folder.path(), 2).ok());
  EXPECT_EQ(claim(folder.path(), 3, "1701").code(), Code::kConflict) << "2 kept the owner";
  EXPECT_TRUE(claim(folder.path(), 3, "1700").ok());
  EXPECT_EQ(claim(folder.path(), 2, "1700").code(), Code::kConflict);
}

TEST(Checkpoint, AnotherJobsFolderIsRefused) {
  const TemporaryFolder folder;
  ASSERT_TRUE(save(Saved(folder.path()).request).ok());
  Saved foreign(folder.path(), 20, 5);
  foreign.request.job = "job-2";
  EXPECT_EQ(save(foreign.request).status().code(), Code::kConflict);
}

TEST(Checkpoint, AFullDiskNamesThePathAndKeepsTheOlderOnes) {
  const TemporaryFolder folder;
  ASSERT_TRUE(save(Saved(folder.path(), 10).request).ok());
  // A limit on file sizes stands in for the full disk: write(2) fails in the middle of the shard.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{2000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto failed = save(Saved(folder.path(), 20).request);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, handler);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.status().code(), Code::kFailed);
  EXPECT_NE(failed.status().message().find(folder.path()), std::string::npos);
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
  EXPECT_EQ(newest_valid(folder.path()).value().step, 10);
  EXPECT_EQ(read_file(folder / "latest_checkpointed_iteration.txt").value(), "10\n");
}

TEST(Checkpoint, ASourceThatFailsLeavesNothing) {
  const TemporaryFolder folder;
  Saved source(folder.path());
  source.request.tensors[1].data = nullptr;
  source.request.tensors[1].fill = [](int64_t, std::span<std::byte>) {
    return Status(Code::kDevice, "lost");
  };
  EXPECT_EQ(save(source.request).status().code(), Code::kDevice);
  EXPECT_EQ(count_in(folder.path(), ".tmp") + count_in(folder.path(), "step-"), 0);
}

TEST(Checkpoint, KeepLastNeverDeletesTheNewestValid) {
  const TemporaryFolder folder;
  for (const int64_t step : {10, 20, 30, 40})
    ASSERT_TRUE(save(Saved(folder.path(), step).request).ok());
  for (const char* step : {"step-00000030", "step-00000040"}) {
    flip_byte(folder / step + std::string("/shard-00001-of-00001.safetensors"), 1000);
  }
  const auto deleted = keep_last(folder.path(), 2);
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(*deleted, (std::vector<std::string>{folder / "step-00000010"}));
  EXPECT_EQ(newest_valid(folder.path()).value().step, 20);
  const std::string newest = save(Saved(folder.path(), 50).request).value().path;
  ASSERT_TRUE(keep_last(folder.path(), 1, newest).ok());
  EXPECT_EQ(count_in(folder.path(), "step-"), 1);
  EXPECT_EQ(newest_valid(folder.path()).value().step, 50);
}

TEST(Checkpoint, KeepLastDeletesNothingWhenNothingIsValid) {
  const TemporaryFolder folder;
  for (const int64_t step : {10, 20}) {
    const std::string path = save(Saved(folder.path(), step).request).value().path;
    flip_byte(path + "/shard-00001-of-00001.safetensors", 1000);
  }
  EXPECT_TRUE(keep_last(folder.path(), 1).value().empty());
  EXPECT_EQ(count_in(folder.path(), "step-"), 2);
  EXPECT_EQ(newest_valid(folder.path()).status().code(), Code::kCheckpointUnusable);
}

TEST(Checkpoint, LeftoversOfDeadWritersGoWithTheNextSave) {
  const TemporaryFolder folder;
  for (const char* name : {".tmp-step-00000005-attempt-1", ".tmp-step-00000006-attempt-2-replaced",
                           ".tmp-step-00000007-attempt-9"}) {
    fs::create_directories(folder / name);
    ASSERT_TRUE(write_file((folder / name) + "/junk", "x").ok());
  }
  ASSERT_TRUE(save(Saved(folder.path(), 10, 2).request).ok());
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 1) << "a higher attempt's is not ours to delete";
}

}  // namespace
}  // namespace dsv3::checkpoint
