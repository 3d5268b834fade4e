// Checkpoints of several ranks' parts: any box reads back, whoever wrote it; parts that do not make
// a whole are not published; what version 1 wrote is read.
#include "runtime/checkpoint/part.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "base/hash.h"
#include "runtime/checkpoint/manifest.h"
#include "tests/unit/runtime/checkpoint/saved.h"

namespace dsv3::checkpoint {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

constexpr int64_t kRows = 6, kCols = 10;

// [kRows, kCols] of known words, and a vector.
struct Whole {
  std::vector<uint32_t> w = random_words(kRows * kCols, "w");
  std::vector<uint32_t> v = random_words(7, "v");

  std::vector<uint32_t> box(const Box& box) const {
    std::vector<uint32_t> words;
    for (int64_t r = box.row; r < box.row + box.rows; ++r)
      words.insert(words.end(), w.begin() + r * kCols + box.col,
                   w.begin() + r * kCols + box.col + box.cols);
    return words;
  }
};

// What one rank writes; owns its data.
struct Part {
  SaveRequest request;
  std::vector<std::vector<uint32_t>> data;

  Part(const std::string& dir, int64_t rank, int64_t world, int64_t step = 10) {
    request.dir = dir;
    request.job = "job-1";
    request.step = step;
    request.rank = rank;
    request.world = world;
  }
  // The elements [begin, end) of a box of w.
  void add(const Whole& whole, const Box& box, int64_t begin, int64_t end) {
    const std::vector<uint32_t> all = whole.box(box);
    data.emplace_back(all.begin() + begin, all.begin() + end);
    request.tensors.push_back({.name = "w",
                               .shape = {kRows, kCols},
                               .data = data.back().data(),
                               .begin = begin,
                               .end = end,
                               .box = box});
  }
  void add_vector(const Whole& whole) {
    data.push_back(whole.v);
    request.tensors.push_back({.name = "v", .shape = {7}, .data = data.back().data()});
  }
};

// Left half by rank 0 in two flat pieces, right half's rows by ranks 1 and 2; the vector by 2.
std::vector<Part> three_parts(const Whole& whole, const std::string& dir, int64_t step = 10) {
  std::vector<Part> parts;
  for (int64_t rank = 0; rank < 3; ++rank) parts.emplace_back(dir, rank, 3, step);
  const Box left{0, 6, 0, 4};
  parts[0].add(whole, left, 0, 7);
  parts[0].add(whole, left, 7, 24);
  parts[1].add(whole, {0, 2, 4, 6}, 0, 12);
  parts[2].add(whole, {2, 4, 4, 6}, 0, 24);
  parts[2].add_vector(whole);
  return parts;
}

Result<SavedCheckpoint> save_parts(const std::vector<Part>& parts) {
  const SaveRequest& first = parts[0].request;
  const PartsTarget target{first.dir, first.attempt, first.step};
  DSV3_ASSIGN_OR_RETURN(const std::string folder, open_parts(target));
  std::vector<std::string> texts;
  for (const Part& part : parts) {
    DSV3_ASSIGN_OR_RETURN(std::string text, write_part(folder, part.request));
    texts.push_back(std::move(text));
  }
  return publish_parts(target, folder, texts);
}

TEST(Part, AnyBoxAndAnyPieceOfItReadBack) {
  const TemporaryFolder folder;
  const Whole whole;
  const auto saved = save_parts(three_parts(whole, folder.path()));
  ASSERT_TRUE(saved.ok()) << saved.status().to_string();
  EXPECT_EQ(count_in(saved->path, "rank-00000-shard-00001-of-00001.safetensors"), 1);
  EXPECT_EQ(count_in(saved->path, "rank-"), 3);
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
  const auto checkpoint = Checkpoint::open(saved->path).value();
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t col = 0; col < kCols; ++col) {
      for (const auto& [rows, cols] :
           {std::pair{kRows - row, kCols - col}, std::pair<int64_t, int64_t>{1, 1},
            std::pair{(kRows - row) / 2, (kCols - col) / 2}}) {
        const Box box{row, rows, col, cols};
        const std::vector<uint32_t> expected = whole.box(box);
        const int64_t n = box.num_elements();
        for (const auto& [begin, end] :
             {std::pair<int64_t, int64_t>{0, n}, std::pair{n / 3, n - n / 4}}) {
          std::vector<uint32_t> read(static_cast<size_t>(end - begin));
          const Status status =
              checkpoint.read("w", box, begin, end, std::as_writable_bytes(std::span(read)));
          ASSERT_TRUE(status.ok()) << status.to_string();
          ASSERT_TRUE(std::equal(read.begin(), read.end(), expected.begin() + begin));
        }
      }
    }
  }
  std::vector<uint32_t> flat(kRows * kCols);
  ASSERT_TRUE(checkpoint.read("w", std::as_writable_bytes(std::span(flat))).ok());
  EXPECT_EQ(flat, whole.w);
  EXPECT_TRUE(checkpoint.bytes("w").empty()) << "in several pieces";
  EXPECT_EQ(checkpoint.bytes("v").size(), 28u);
  std::vector<uint32_t> out(4);
  for (const Box& outside : {Box{5, 2, 0, 2}, Box{0, 2, 9, 2}, Box{-1, 2, 0, 2}})
    EXPECT_EQ(checkpoint.read("w", outside, 0, 4, std::as_writable_bytes(std::span(out))).code(),
              Code::kInvalid);
}

// A rank that reads its own boxes looks at no file that holds none of them.
TEST(Part, ReadingTouchesOnlyTheShardsThatHoldWhatIsRead) {
  const TemporaryFolder folder;
  const Whole whole;
  const std::string path = save_parts(three_parts(whole, folder.path())).value().path;
  fs::remove(path + "/rank-00001-shard-00001-of-00001.safetensors");
  EXPECT_FALSE(Checkpoint::open(path, false).ok());
  const auto checkpoint = Checkpoint::open_for_reading(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  const Box there{2, 4, 0, 10}, gone{1, 1, 4, 6};  // of ranks 0 and 2; of rank 1
  std::vector<uint32_t> read(40), none(6);
  ASSERT_TRUE(checkpoint->read("w", there, 0, 40, std::as_writable_bytes(std::span(read))).ok());
  EXPECT_EQ(read, whole.box(there));
  const Status status = checkpoint->read("w", gone, 0, 6, std::as_writable_bytes(std::span(none)));
  EXPECT_EQ(status.code(), Code::kCheckpointUnusable);
  EXPECT_NE(status.message().find("rank-00001"), std::string::npos) << status.message();
  EXPECT_EQ(checkpoint->verify().code(), Code::kCheckpointUnusable);
}

TEST(Part, PartsThatMakeNoWholeAreNotPublished) {
  const Whole whole;
  const auto expect_refused = [&](const char* what, auto&& change) {
    const TemporaryFolder folder;
    ASSERT_TRUE(save_parts(three_parts(whole, folder.path(), 5)).ok());
    std::vector<Part> parts = three_parts(whole, folder.path());
    change(parts);
    const Status status = save_parts(parts).status();
    EXPECT_EQ(status.code(), Code::kInvalid) << what;
    EXPECT_NE(status.message().find(what), std::string::npos) << status.message();
    EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
    EXPECT_EQ(newest_valid(folder.path()).value().step, 5);
  };
  expect_refused("tensor 'w': 48 of 60", [](auto& parts) { parts[1].request.tensors.clear(); });
  expect_refused("overlap", [](auto& parts) { parts[1].request.tensors[0].box = Box{1, 2, 4, 6}; });
  expect_refused("overlap", [&](auto& parts) { parts[0].add_vector(whole); });
  expect_refused("rank 2", [](auto& parts) { parts[2].request.step = 11; });
  expect_refused("rank 1", [](auto& parts) { parts[1].request.job = "job-2"; });
  expect_refused("rank 1", [](auto& parts) {
    parts[1].request.tensors[0].shape = {kRows + 1, kCols};
  });
}

TEST(Part, AFailureOfSealOrRenameLeavesTheOlderOnes) {
  const Whole whole;
  for (const std::string point : {"manifest", "complete", "publish"}) {
    const TemporaryFolder folder;
    ASSERT_TRUE(save_parts(three_parts(whole, folder.path(), 5)).ok());
    const PartsTarget target{folder.path(), 1, 10, [&](std::string_view at) {
                               return at == point ? Status(Code::kFailed, "full") : Status();
                             }};
    const std::string writing = open_parts(target).value();
    std::vector<std::string> texts;
    for (const Part& part : three_parts(whole, folder.path()))
      texts.push_back(write_part(writing, part.request).value());
    EXPECT_EQ(publish_parts(target, writing, texts).status().code(), Code::kFailed) << point;
    EXPECT_EQ(newest_valid(folder.path()).value().step, 5) << point;
    EXPECT_EQ(count_in(folder.path(), ".tmp"), 0) << point;
  }
}

TEST(Part, AFencedAttemptWritesNothing) {
  const TemporaryFolder folder;
  ASSERT_TRUE(claim(folder.path(), 2).ok());
  EXPECT_EQ(open_parts({folder.path(), 1, 10}).status().code(), Code::kConflict);
  EXPECT_EQ(count_in(folder.path(), ".tmp"), 0);
}

// Right size, right tensors, but of another moment or job.
TEST(Part, AShardOfAnotherStepOrJobIsNamed) {
  const TemporaryFolder folder;
  const Whole whole;
  const std::string path = save_parts(three_parts(whole, folder.path(), 10)).value().path;
  const std::string other = save_parts(three_parts(whole, folder.path(), 20)).value().path;
  const std::string shard = "/rank-00001-shard-00001-of-00001.safetensors";
  const std::string kept = read_file(path + shard).value();
  fs::copy_file(other + shard, path + shard, fs::copy_options::overwrite_existing);
  const Status status = Checkpoint::open(path, false).status();
  EXPECT_EQ(status.code(), Code::kCheckpointUnusable);
  for (const char* part : {"rank-00001", "step '20'", "'10'"})
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  fs::remove(path + shard);
  EXPECT_NE(Checkpoint::open(path, false).status().message().find("rank-00001"), std::string::npos);
  overwrite(path + shard, kept);
  EXPECT_TRUE(Checkpoint::open(path).ok());
}

// A manifest as version 1 wrote it: flat ranges, three of them, of a matrix in one file.
TEST(Part, VersionOneIsRead) {
  const TemporaryFolder folder;
  const Whole whole;
  Part source(folder.path(), 0, 1);
  source.data.push_back(whole.w);
  const std::vector<std::pair<int64_t, int64_t>> ranges = {{0, 13}, {13, 39}, {39, 60}};
  std::string json;
  for (const auto& [begin, end] : ranges) {
    source.request.tensors.push_back({.name = "w",
                                      .shape = {kRows, kCols},
                                      .data = source.data[0].data() + begin,
                                      .begin = begin,
                                      .end = end});
    json += fmt::format(R"({}{{"begin": {}, "end": {}, "shard": 0, "key": "w[{}:{}]"}})",
                        json.empty() ? "" : ", ", begin, end, begin, end);
  }
  const std::string path = save(source.request).value().path;
  const std::string written = read_file(path + "/manifest.json").value();
  const std::string shards = written.substr(
      written.find("\"shards\""), written.find("\"tensors\"") - written.find("\"shards\""));
  const std::string text =
      R"({"format": "dsv3ctl checkpoint", "format_version": 1, "job": "job-1", "attempt": 1,
 "step": 10, "state": {"next_sample_idx": 0, "seed": 0, "lr_step": 0, "tokens_seen": 0,
 "compute_dtype": "", "extra": []}, "spec": "", )" +
      shards + R"("tensors": [{"name": "w", "dtype": "f32", "shape": [6, 10], "ranges": [)" + json +
      "]}]}\n";
  overwrite(path + "/manifest.json", text);
  overwrite(path + "/complete", checksum(std::as_bytes(std::span<const char>(text))) + "\n");
  const auto checkpoint = Checkpoint::open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string() << text;
  std::vector<uint32_t> flat(kRows * kCols);
  ASSERT_TRUE(checkpoint->read("w", std::as_writable_bytes(std::span(flat))).ok());
  EXPECT_EQ(flat, whole.w);
  const Box box{1, 4, 3, 5};
  std::vector<uint32_t> read(20);
  ASSERT_TRUE(checkpoint->read("w", box, 0, 20, std::as_writable_bytes(std::span(read))).ok());
  EXPECT_EQ(read, whole.box(box));
}

}  // namespace
}  // namespace dsv3::checkpoint
