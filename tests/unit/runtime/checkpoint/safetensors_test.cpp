// safetensors files against bytes assembled by hand, and against every rule that a file can break.
#include "runtime/checkpoint/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::checkpoint {
namespace {

// The format by hand: length, header, data.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

Result<SafetensorsFile> open_bytes(const TemporaryFolder& folder, const std::string& bytes) {
  overwrite(folder / "f.safetensors", bytes);
  return SafetensorsFile::open(folder / "f.safetensors");
}

std::span<const std::byte> bytes_of(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

TEST(Safetensors, ReadsAFileMadeByHand) {
  const TemporaryFolder folder;
  const float two[2] = {1.5f, -2.0f};
  std::string data(reinterpret_cast<const char*>(two), 8);
  data += std::string("\x80\x3f", 2);  // 1.0 in bf16
  const auto file = open_bytes(
      folder,
      file_of(R"({"__metadata__":{"k":"v"},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]},)"
              R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}   )",
              data));
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(file->find("a")->shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(file->read_f32("a").value(), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(file->read_f32("b").value(), (std::vector<float>{1.0f}));
  EXPECT_EQ(file->metadata().at("k"), "v");
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->read_f32("c").status().code(), Code::kNotFound);
}

TEST(Safetensors, WritesTheBytesOfTheFormat) {
  const TemporaryFolder folder;
  auto writer = SafetensorsWriter::create(
      folder / "w", {{"z", "F32", {2}}, {"a", "BF16", {1}}, {"b", "F32", {}}});
  ASSERT_TRUE(writer.ok());
  // Largest elements first, then by name.
  ASSERT_EQ(writer->order().size(), 3u);
  EXPECT_EQ(writer->order()[0].name, "b");
  EXPECT_EQ(writer->order()[1].name, "z");
  const std::vector<float> three = {1.0f, 2.0f, 3.0f};
  ASSERT_TRUE(writer->append(bytes_of(three).first(5)).ok());
  ASSERT_TRUE(writer->append(bytes_of(three).subspan(5)).ok());
  const Bf16 half(0.5f);
  ASSERT_TRUE(writer->append(std::as_bytes(std::span(&half, 1))).ok());
  ASSERT_TRUE(writer->finish().ok());
  std::string header =
      R"({"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
      R"("a":{"dtype":"BF16","shape":[1],"data_offsets":[12,14]}})";
  while (header.size() % 8 != 0) header += ' ';
  std::string data(reinterpret_cast<const char*>(three.data()), 12);
  data += std::string("\x00\x3f", 2);
  const std::string expected = file_of(header, data);
  EXPECT_EQ(read_file(folder / "w").value(), expected);
  EXPECT_EQ(writer->size_bytes(), static_cast<int64_t>(expected.size()));
  EXPECT_EQ(writer->checksum(), checksum(std::as_bytes(std::span<const char>(expected))));
}

TEST(Safetensors, WriterRefusesTooFewAndTooManyBytes) {
  const TemporaryFolder folder;
  const std::vector<float> values(3, 1.0f);
  auto few = SafetensorsWriter::create(folder / "few", {{"a", "F32", {3}}});
  ASSERT_TRUE(few.ok());
  ASSERT_TRUE(few->append(bytes_of(values).first(8)).ok());
  EXPECT_FALSE(few->finish().ok());
  auto many = SafetensorsWriter::create(folder / "many", {{"a", "F32", {2}}});
  ASSERT_TRUE(many.ok());
  EXPECT_FALSE(many->append(bytes_of(values)).ok());
  EXPECT_FALSE(path_exists(folder / "few"));
  EXPECT_FALSE(
      SafetensorsWriter::create(folder / "x", {{"a", "F32", {1}}, {"a", "BF16", {1}}}).ok());
  EXPECT_FALSE(SafetensorsWriter::create(folder / "x", {{"a", "F33", {1}}}).ok());
  const std::vector<SafetensorsTensor> too_many(kSafetensorsTensorsMax + 1, {"a", "F32", {1}});
  const auto writer = SafetensorsWriter::create(folder / "x", too_many);
  ASSERT_FALSE(writer.ok());
  EXPECT_NE(writer.status().message().find("400001 tensors"), std::string::npos);
}

TEST(Safetensors, RefusesWhatBreaksARule) {
  const TemporaryFolder folder;
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const struct {
    const char* why;
    std::string bytes;
  } cases[] = {
      {"empty", ""},
      {"short", "1234567"},
      {"header past the end", file_of("{}", "").substr(0, 9)},
      {"huge header", std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)},
      {"100000001 bytes of header", std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)},
      {"not an object", file_of("[]", "")},
      {"leading space", file_of(" {}", "")},
      {"not JSON", file_of("{", "")},
      {"name twice", file_of("{" + a + "," + a + "}", "1234")},
      {"key twice in an entry",
       file_of(R"({"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}})", "1234")},
      {"hole at the start",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "12345678")},
      {"hole at the end", file_of("{" + a + "}", "12345678")},
      {"data missing", file_of("{" + a + "}", "123")},
      {"overlap",
       file_of("{" + a + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", "123456")},
      {"shape and offsets differ",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234")},
      {"unknown dtype",
       file_of(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", "1234")},
      {"negative size",
       file_of(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "1234")},
      {"size that overflows",
       file_of(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
               "")},
      {"backward offsets",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "1234")},
      {"offsets as text",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}})", "1234")},
      {"old name of offsets",
       file_of(R"({"a":{"dtype":"F32","shape":[1],"offsets":[0,4]}})", "1234")},
      {"no shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", "1234")},
      {"deep nesting",
       file_of("{\"a\":" + std::string(500'000, '[') + std::string(500'000, ']') + "}", "")},
      {"metadata not text", file_of(R"({"__metadata__":{"k":1}})", "")},
  };
  for (const auto& [why, bytes] : cases) {
    const auto file = open_bytes(folder, bytes);
    ASSERT_FALSE(file.ok()) << why;
    EXPECT_EQ(file.status().code(), Code::kInvalid) << why;
    EXPECT_NE(file.status().message().find("f.safetensors"), std::string::npos) << why;
  }
  EXPECT_TRUE(open_bytes(folder, file_of("{}", "")).ok()) << "an empty file of tensors is a file";
  EXPECT_TRUE(open_bytes(folder, file_of("{" + a + "}", "1234")).ok());
}

TEST(Safetensors, SurvivesEveryTruncationAndEveryFlippedHeaderByte) {
  const TemporaryFolder folder;
  const std::string whole = file_of(
      R"({"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],)"
      R"("data_offsets":[8,11]}})",
      "0123456789a");
  ASSERT_TRUE(open_bytes(folder, whole).ok());
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(open_bytes(folder, whole.substr(0, length)).ok()) << length;
  }
  for (size_t at = 0; at < whole.size() - 11; ++at) {
    for (const char flip : {'\x01', '\x10', '\x80'}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const auto file = open_bytes(folder, damaged);  // may open (a name changed); must not crash
      if (file.ok()) {
        for (const auto& tensor : file->tensors()) EXPECT_LE(file->bytes(tensor).size(), 11u);
      }
    }
  }
}

// Of 100 MB, as large as a header may be: parsed, "[],[],…" alone would take 2 GB.
TEST(Safetensors, AHeaderOfHostileSizeIsRefusedWithinMemory) {
  const TemporaryFolder folder;
  const auto peak_bytes = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return int64_t{1024} * usage.ru_maxrss;
  };
  std::string bytes(8, '\0');
  constexpr uint64_t kLength = 100'000'000;
  std::memcpy(bytes.data(), &kLength, 8);
  bytes.reserve(kLength + 8);
  bytes += R"({"a":[)";
  while (bytes.size() + 6 < kLength + 8) bytes += "[],";
  bytes += "0]";
  bytes.resize(kLength + 7, ' ');
  bytes += '}';
  overwrite(folder / "f.safetensors", bytes);
  const int64_t before = peak_bytes();
  const auto file = SafetensorsFile::open(folder / "f.safetensors");
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.status().message().find("values"), std::string::npos) << file.status().message();
  EXPECT_LT(peak_bytes() - before, 150'000'000);  // the map's own pages
}

TEST(Safetensors, WhatIsNoRegularFileIsRefusedByName) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "dir");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("loop", folder / "loop");
  for (const char* name : {"dir", "pipe", "loop", "absent"}) {
    const auto file = SafetensorsFile::open(folder / name);
    ASSERT_FALSE(file.ok()) << name;
    EXPECT_NE(file.status().message().find(folder / name), std::string::npos)
        << file.status().message();
  }
}

// Quadratic in the number of tensors, either would take minutes.
TEST(Safetensors, AHundredThousandTensorsAreWrittenAndReadInASecond) {
  const TemporaryFolder folder;
  std::vector<SafetensorsTensor> tensors;
  for (int i = 0; i < 100'000; ++i) {
    tensors.push_back({"model.layers.0.mlp.experts." + std::to_string(i) + ".w", "F32", {0}});
  }
  auto writer = SafetensorsWriter::create(folder / "many", tensors);
  ASSERT_TRUE(writer.ok()) << writer.status().to_string();
  ASSERT_TRUE(writer->finish().ok());
  const auto file = SafetensorsFile::open(folder / "many");
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->tensors().size(), 100'000u);
}

TEST(Safetensors, ReadsTheGoldenFixtures) {
  const auto file = SafetensorsFile::open(DSV3_SOURCE_DIR "/tests/golden/data/base.safetensors");
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_FALSE(file->tensors().empty());
}

}  // namespace
}  // namespace dsv3::checkpoint
