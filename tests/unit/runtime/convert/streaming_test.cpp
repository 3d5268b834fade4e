// Import and export within a limit on memory that the model passes, with 8-bit blocks of 128 × 128
// that no size of the model is a multiple of.
//
// The values that must come out are computed here, by their definition.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <new>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/convert/export.h"
#include "runtime/convert/import.h"
#include "tests/unit/runtime/convert/hf_builder.h"

namespace dsv3::convert {
namespace {

constexpr int64_t kLimitBytes = int64_t{32} << 20;  // beyond what the process holds before
constexpr int64_t kBlock = 128;

spec::ModelSpec odd_model() {
  spec::ModelSpec model = tiny_model();
  model.vocab_size = 6007;
  model.d_model = 1030;
  model.dense_intermediate_size = 2311;  // more elements than are read at once
  model.moe.expert_intermediate_size = 131;
  model.mla.q_lora_rank = 257;
  return model;
}

Json odd_config() {
  Json config = tiny_config();
  config["vocab_size"] = 6007;
  config["hidden_size"] = 1030;
  config["intermediate_size"] = 2311;
  config["moe_intermediate_size"] = 131;
  config["q_lora_rank"] = 257;
  config["dtype"] = "bfloat16";
  config["quantization_config"] = {
      {"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {kBlock, kBlock}}};
  return config;
}

bool is_eight_bit(const std::string& name) {
  return name.find("_proj") != std::string::npos;
}
uint8_t eight_bits(int64_t i) {
  return static_cast<uint8_t>((i * 37 + i / 251) % 0x7F + (i % 3 == 0 ? 0x80 : 0));
}
float scale_of(int64_t block_row, int64_t block_col) {
  return 0.25F + static_cast<float>(block_row) + 0.001F * static_cast<float>(block_col);
}
uint16_t sixteen_bits(int64_t i) {
  return static_cast<uint16_t>((i * 7 + i / 4093) % 0x4000);
}

// Value of an E4M3 byte by its definition.
double e4m3(uint8_t bits) {
  const double sign = bits & 0x80 ? -1 : 1;
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

float expected(const spec::TensorInfo& info, int64_t i) {
  if (!is_eight_bit(info.name))
    return std::bit_cast<float>(static_cast<uint32_t>(sixteen_bits(i)) << 16);
  const int64_t cols = info.shape[1];
  const float scale = scale_of(i / cols / kBlock, i % cols / kBlock);
  return static_cast<float>(e4m3(eight_bits(i)) * static_cast<double>(scale));
}

std::vector<spec::TensorInfo> all_tensors() {
  auto infos = spec::model_tensors(odd_model());
  for (auto& buffer : spec::model_buffers(odd_model())) infos.push_back(buffer);
  return infos;
}

RawTensors odd_tensors() {
  RawTensors tensors;
  for (const spec::TensorInfo& info : all_tensors()) {
    const int64_t n = info.num_elements();
    if (!is_eight_bit(info.name)) {
      std::vector<uint16_t> bits;
      for (int64_t i = 0; i < n; ++i) bits.push_back(sixteen_bits(i));
      tensors[info.name] = raw("BF16", info.shape, bits);
      continue;
    }
    std::vector<uint8_t> bits;
    for (int64_t i = 0; i < n; ++i) bits.push_back(eight_bits(i));
    tensors[info.name] = raw("F8_E4M3", info.shape, bits);
    const int64_t down = (info.shape[0] + kBlock - 1) / kBlock;
    const int64_t across = (info.shape[1] + kBlock - 1) / kBlock;
    std::vector<float> scales;
    for (int64_t i = 0; i < down * across; ++i) scales.push_back(scale_of(i / across, i % across));
    tensors[info.name + "_scale_inv"] = raw("F32", {down, across}, scales);
  }
  return tensors;
}

// What the kernel counts against RLIMIT_DATA: private writable memory, not files that are mapped.
int64_t data_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmData:")) return std::stoll(line.substr(7)) * 1024;
  return 0;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kLimited = false;  // what it frees stays taken for a while
#else
constexpr bool kLimited = true;
#endif

// In a process of its own, which may take kLimitBytes more than it has; its exit code. 2: it wanted
// more.
int within_limit(const std::function<Status()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto most = static_cast<rlim_t>(data_bytes() + kLimitBytes);
    const rlimit limit{most, most};
    int code = !kLimited || ::setrlimit(RLIMIT_DATA, &limit) == 0 ? 0 : 3;
    try {
      if (const Status status = code == 0 ? work() : Status(); !status.ok()) {
        code = 1;
        std::fprintf(stderr, "%s\n", status.to_string().c_str());
      }
    } catch (const std::bad_alloc&) {
      code = 2;
    }
    ::_exit(code);
  }
  int how = 0;
  ::waitpid(child, &how, 0);
  return WIFEXITED(how) ? WEXITSTATUS(how) : -1;
}

TEST(Streaming, AModelLargerThanTheMemoryIsImportedAndExported) {
  int64_t elements = 0;
  for (const spec::TensorInfo& info : all_tensors()) elements += info.num_elements();
  ASSERT_GT(4 * elements, 2 * kLimitBytes) << "the model must not fit";
  const TemporaryFolder folder;
  write_hf(folder / "hf", odd_config(), odd_tensors(), 3);
  const auto whole_model = static_cast<size_t>(4 * elements);
  const auto take_it_all = [&] {
    return std::vector<char>(whole_model).empty() ? Status(Code::kFailed, "empty") : Status();
  };
  ASSERT_EQ(within_limit(take_it_all), kLimited ? 2 : 0) << "the limit holds";
  const auto import = [&] {
    return import_hf({.hf_dir = folder / "hf", .out_dir = folder / "out"}).status();
  };
  ASSERT_EQ(within_limit(import), 0);
  const auto back = [&] {
    return export_hf({.checkpoint = folder / "out",
                      .out_dir = folder / "again",
                      .dtype = "fp32",
                      .shard_bytes_max = 20'000'000})
        .status();
  };
  ASSERT_EQ(within_limit(back), 0);
  const auto saved = checkpoint::Checkpoint::open(folder / "out/step-00000000");
  ASSERT_TRUE(saved.ok()) << saved.status().to_string();
  for (const spec::TensorInfo& info : all_tensors()) {
    std::vector<float> values(static_cast<size_t>(info.num_elements()));
    ASSERT_TRUE(saved->read(info.name, std::as_writable_bytes(std::span(values))).ok());
    for (int64_t i = 0; i < info.num_elements(); ++i)
      ASSERT_EQ(values[static_cast<size_t>(i)], expected(info, i)) << info.name << " " << i;
  }
  // Back again it is the same checkpoint, bit by bit.
  const auto twice = import_hf({.hf_dir = folder / "again", .out_dir = folder / "twice"});
  ASSERT_TRUE(twice.ok()) << twice.status().to_string();
  const auto other = checkpoint::Checkpoint::open(twice->path).value();
  for (const spec::TensorInfo& info : all_tensors()) {
    const auto a = saved->bytes(info.name), b = other.bytes(info.name);
    ASSERT_TRUE(!a.empty() && std::equal(a.begin(), a.end(), b.begin(), b.end())) << info.name;
  }
}

}  // namespace
}  // namespace dsv3::convert
