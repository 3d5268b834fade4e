// Megatron's format against bytes assembled by hand, and against every way a file can be wrong.
#include "runtime/data/indexed_dataset.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string_view>

#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::data {
namespace {

template <typename T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// An .idx as the format's description has it, independent of the writer.
std::string idx_of(uint8_t code, int64_t token_bytes, const std::vector<int32_t>& lengths,
                   const std::vector<int64_t>& documents) {
  std::string idx("MMIDIDX\0\0", 9);
  put<uint64_t>(idx, 1);
  put<uint8_t>(idx, code);
  put<uint64_t>(idx, lengths.size());
  put<uint64_t>(idx, documents.size());
  for (const int32_t length : lengths) put(idx, length);
  int64_t pointer = 0;
  for (const int32_t length : lengths) {
    put(idx, pointer);
    pointer += length * token_bytes;
  }
  for (const int64_t document : documents) put(idx, document);
  return idx;
}

template <typename T>
std::string bin_of(const std::vector<T>& tokens) {
  return std::string(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(T));
}

Result<IndexedDataset> open_bytes(const TemporaryFolder& folder, const std::string& idx,
                                  const std::string& bin) {
  overwrite(folder / "d.idx", idx);
  overwrite(folder / "d.bin", bin);
  return IndexedDataset::open(folder / "d");
}

template <typename T>
void expect_reads(uint8_t code) {
  const TemporaryFolder folder;
  // Three sequences in two documents, the first of two sequences; an empty document at the end.
  const auto dataset = open_bytes(folder, idx_of(code, sizeof(T), {2, 1, 3}, {0, 2, 3, 3}),
                                  bin_of<T>({5, 6, 7, 100, 101, 102}));
  ASSERT_TRUE(dataset.ok()) << dataset.status().to_string();
  EXPECT_EQ(dataset->num_sequences(), 3);
  EXPECT_EQ(dataset->num_documents(), 3);
  EXPECT_EQ(dataset->num_tokens(), 6);
  EXPECT_EQ(dataset->document_begin(0), 0);
  EXPECT_EQ(dataset->document_begin(1), 3);
  EXPECT_EQ(dataset->document_begin(2), 6);
  EXPECT_EQ(dataset->document_begin(3), 6);
  std::vector<int32_t> tokens(4);
  ASSERT_TRUE(dataset->read(2, 103, tokens).ok());
  EXPECT_EQ(tokens, (std::vector<int32_t>{7, 100, 101, 102}));
}

TEST(IndexedDataset, ReadsHandMadeFilesOfEveryTokenType) {
  expect_reads<uint8_t>(1);
  expect_reads<int8_t>(2);
  expect_reads<int16_t>(3);
  expect_reads<int32_t>(4);
  expect_reads<int64_t>(5);
  expect_reads<uint16_t>(8);
}

TEST(IndexedDataset, ReadsMultimodalIndexesWithTheirModes) {
  const TemporaryFolder folder;
  EXPECT_TRUE(
      open_bytes(folder, idx_of(4, 4, {1, 1}, {0, 2}) + std::string(2, '\0'), std::string(8, '\0'))
          .ok());
}

TEST(IndexedDataset, AnEmptyDatasetIsADataset) {
  const TemporaryFolder folder;
  const auto dataset = open_bytes(folder, idx_of(4, 4, {}, {0}), "");
  ASSERT_TRUE(dataset.ok()) << dataset.status().to_string();
  EXPECT_EQ(dataset->num_tokens(), 0);
  EXPECT_EQ(dataset->document_begin(0), 0);
}

TEST(IndexedDataset, WritesTheBytesOfTheFormat) {
  const TemporaryFolder folder;
  auto builder = IndexedDatasetBuilder::create(folder / "w", token_type_for_vocab(65499));
  ASSERT_TRUE(builder.ok());
  ASSERT_TRUE(builder->add_document(std::vector<int32_t>{1, 65535}).ok());
  ASSERT_TRUE(builder->add_document(std::vector<int32_t>{}).ok());
  ASSERT_TRUE(builder->add_document(std::vector<int32_t>{3}).ok());
  EXPECT_EQ(builder->add_document(std::vector<int32_t>{65536}).code(), Code::kInvalid);
  EXPECT_FALSE(path_exists(folder / "w.bin")) << "nothing is visible before finish";
  ASSERT_TRUE(builder->finish().ok());
  EXPECT_EQ(read_file(folder / "w.idx").value(), idx_of(8, 2, {2, 0, 1}, {0, 1, 2, 3}));
  EXPECT_EQ(read_file(folder / "w.bin").value(), bin_of<uint16_t>({1, 65535, 3}));
  EXPECT_EQ(token_type_for_vocab(65500), TokenType::kI32);
}

TEST(IndexedDataset, NamesTheFileAndThePositionOfAForeignToken) {
  const TemporaryFolder folder;
  const auto dataset =
      open_bytes(folder, idx_of(4, 4, {3}, {0, 1}), bin_of<int32_t>({5, -1, 9000}));
  ASSERT_TRUE(dataset.ok());
  std::vector<int32_t> tokens(3);
  const Status negative = dataset->read(0, 8192, tokens);
  EXPECT_EQ(negative.code(), Code::kInvalid);
  EXPECT_NE(negative.message().find("d.bin': token -1 at position 1"), std::string::npos)
      << negative.message();
  const Status large = dataset->read(2, 8192, std::span(tokens).first(1));
  EXPECT_NE(large.message().find("token 9000 at position 2"), std::string::npos) << large.message();
}

TEST(IndexedDataset, RefusesWhatBreaksARule) {
  const TemporaryFolder folder;
  const std::string good = idx_of(4, 4, {2, 1}, {0, 1, 2});
  const std::string bin = bin_of<int32_t>({1, 2, 3});
  ASSERT_TRUE(open_bytes(folder, good, bin).ok());
  const auto with = [&](size_t at, auto value) {
    std::string changed = good;
    std::memcpy(changed.data() + at, &value, sizeof value);
    return changed;
  };
  // Offsets: lengths at 34, pointers at 34 + 8, documents at 34 + 24.
  const struct {
    const char* why;
    std::string idx;
  } cases[] = {
      {"magic", with(0, 'X')},
      {"version", with(9, uint64_t{2})},
      {"type code 0", with(17, uint8_t{0})},
      {"type code 9", with(17, uint8_t{9})},
      {"floating point", with(17, uint8_t{7})},
      {"count of sequences", with(18, uint64_t{3})},
      {"count beyond memory", with(18, ~uint64_t{0})},
      {"no boundaries", with(26, uint64_t{0})},
      {"negative length", with(34, int32_t{-2})},
      {"length past the .bin", with(38, int32_t{2})},
      {"largest length", with(38, int32_t{0x7FFFFFFF})},
      {"gap between sequences", with(50, int64_t{12})},
      {"negative pointer", with(42, int64_t{-8})},
      {"pointer near 2^63", with(42, int64_t{0x7FFFFFFFFFFFFFF8})},
      {"first document", with(58, int64_t{1})},
      {"documents going back", with(66, int64_t{-1})},
      {"document past the end", with(66, int64_t{3})},
      {"last document", with(74, int64_t{1})},
      {"one byte more", good + "x"},
  };
  for (const auto& [why, idx] : cases) {
    const auto dataset = open_bytes(folder, idx, bin);
    ASSERT_FALSE(dataset.ok()) << why;
    EXPECT_EQ(dataset.status().code(), Code::kInvalid) << why;
    EXPECT_NE(dataset.status().message().find("d.idx"), std::string::npos) << why;
  }
  EXPECT_FALSE(open_bytes(folder, good, bin.substr(0, 11)).ok()) << "short .bin";
  EXPECT_EQ(IndexedDataset::open(folder / "absent").status().code(), Code::kNotFound);
}

TEST(IndexedDataset, WhatIsNoRegularFileIsRefusedByName) {
  namespace fs = std::filesystem;
  const std::string idx = idx_of(4, 4, {2, 1}, {0, 1, 2}), bin = bin_of<int32_t>({1, 2, 3});
  for (const char* suffix : {".idx", ".bin"}) {
    for (const char* kind : {"folder", "pipe", "loop", "empty"}) {
      const TemporaryFolder folder;
      ASSERT_TRUE(open_bytes(folder, idx, bin).ok());
      const std::string path = folder / "d" + suffix;
      fs::remove(path);
      if (kind == std::string_view("folder")) fs::create_directory(path);
      if (kind == std::string_view("pipe")) ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
      if (kind == std::string_view("loop")) fs::create_symlink(path, path);
      if (kind == std::string_view("empty")) overwrite(path, "");
      const auto dataset = IndexedDataset::open(folder / "d");
      ASSERT_FALSE(dataset.ok()) << kind << suffix;
      EXPECT_NE(dataset.status().message().find("/d."), std::string::npos)
          << dataset.status().message();
    }
  }
}

TEST(IndexedDataset, SurvivesEveryTruncationAndEveryFlippedByte) {
  const TemporaryFolder folder;
  const std::string idx = idx_of(8, 2, {2, 0, 3}, {0, 1, 3});
  const std::string bin = bin_of<uint16_t>({1, 2, 3, 4, 5});
  for (size_t length = 0; length < idx.size(); ++length) {
    EXPECT_FALSE(open_bytes(folder, idx.substr(0, length), bin).ok()) << length;
  }
  for (size_t at = 0; at < idx.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = idx;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      overwrite(folder / "d.idx", damaged);
      const auto dataset = IndexedDataset::open(folder / "d");
      if (!dataset.ok()) continue;  // what still opens must be readable to its end
      std::vector<int32_t> tokens(dataset->num_tokens());
      EXPECT_TRUE(dataset->read(0, 65536, tokens).ok());
      for (int64_t d = 0; d < dataset->num_documents(); ++d) {
        EXPECT_LE(dataset->document_begin(d), dataset->document_begin(d + 1));
      }
    }
  }
}

}  // namespace
}  // namespace dsv3::data
