// What doctor says of a machine that is well and of each thing that can be wrong with one.
#include <gtest/gtest.h>

#include "coordinator/cli/doctor_checks.h"
#include "tests/unit/coordinator/cli/command_line.h"

namespace dsv3::cli {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;

inventory::MachineFacts machine() {
  inventory::MachineFacts facts;
  facts.cpu_name = "Some CPU";
  facts.cores = 8;
  facts.has_avx2_fma = true;
  facts.memory = {32 * kGib, 16 * kGib};
  facts.gpu_note = "no NVIDIA driver";
  return facts;
}

StateDir state_dir() {
  StateDir dir;
  dir.path = dir.nearest = "/home/me/state";
  dir.exists = dir.is_dir = dir.writable = true;
  dir.mode = 0700;
  dir.filesystem = filesystem_of_type(0xEF53);
  dir.filesystem.free_bytes = 100 * kGib;
  return dir;
}

void expect_advice(const Check& check, Level level, const std::string& part) {
  EXPECT_EQ(check.level, level) << check.message;
  EXPECT_TRUE(contains(check.message + " " + check.hint, part)) << check.message << check.hint;
  EXPECT_EQ(check.hint.empty(), level == Level::kOk) << check.message;
}

TEST(Doctor, SaysInWhatTheProductsRun) {
  inventory::MachineFacts facts = machine();
  expect_advice(check_cpu(facts), Level::kOk, "fp32");
  facts.has_avx512_bf16 = true;
  expect_advice(check_cpu(facts), Level::kOk, "fp32");
  facts.is_amd = true;
  expect_advice(check_cpu(facts), Level::kOk, "bf16");
  facts.is_amd = false;
  facts.has_amx_bf16 = true;
  expect_advice(check_cpu(facts), Level::kOk, "AMX: products run in bf16");
  facts.has_avx2_fma = false;
  expect_advice(check_cpu(facts), Level::kError, "AVX2");
}

TEST(Doctor, WarnsOfLittleMemoryAndFewDescriptors) {
  expect_advice(check_memory({32 * kGib, 16 * kGib}), Level::kOk, "16.00 GiB available");
  expect_advice(check_memory({2 * kGib, kGib / 2}), Level::kWarning, "demo needs");
  expect_advice(check_open_files(20000, 20000), Level::kOk, "20000");
  expect_advice(check_open_files(256, 4096), Level::kWarning, "ulimit -n 1024");
  expect_advice(check_open_files(256, 256), Level::kWarning, "administrator");
}

TEST(Doctor, AGpuNeedsAPlugInThatLoads) {
  inventory::MachineFacts facts = machine();
  expect_advice(check_gpus(facts, {}), Level::kOk, "CPU");
  expect_advice(check_gpus(facts, {true, "libcudart.so.13: absent"}), Level::kOk, "libcudart");
  facts.gpus = {{.kind = plan::DeviceKind::kCuda, .name = "H200"}};
  expect_advice(check_gpus(facts, {}), Level::kWarning, "DSV3_CUDA=ON");
  expect_advice(check_gpus(facts, {true, "libcudart.so.13: absent"}), Level::kWarning, "libcudart");
  expect_advice(check_gpus(facts, {true, ""}), Level::kOk, "H200");
}

TEST(Doctor, AllBinariesAreThereAndOfOneVersion) {
  const auto check = [](std::vector<Binary> found) { return check_binaries("/bin", "1.2", found); };
  expect_advice(check({{"dsv3d", "1.2", ""}, {"dsv3-agent", "1.2", ""}}), Level::kOk, "1.2");
  expect_advice(check({{"dsv3d", "1.1", ""}}), Level::kError, "dsv3d is of version 1.1");
  expect_advice(check({{"dsv3d", "", ""}}), Level::kError, "unknown");
  expect_advice(check({{"dsv3-worker", "", "it is not there"}}), Level::kError,
                "dsv3-worker: it is not there");
}

TEST(Doctor, AStateDirIsPrivateLocalAndWritable) {
  expect_advice(check_state_dir(state_dir()), Level::kOk, "mode 0700");
  StateDir dir = state_dir();
  dir.is_dir = false;
  expect_advice(check_state_dir(dir), Level::kError, "is a file");
  dir = state_dir();
  dir.writable = false;
  expect_advice(check_state_dir(dir), Level::kError, "can't be written");
  dir.exists = false;
  dir.nearest = "/home";
  expect_advice(check_state_dir(dir), Level::kError, "/home can't be written");
  dir = state_dir();
  dir.filesystem.read_only = true;
  expect_advice(check_state_dir(dir), Level::kError, "read-only");
  dir = state_dir();
  dir.filesystem.free_bytes = kGib;
  expect_advice(check_state_dir(dir), Level::kWarning, "space");
  dir.filesystem.free_bytes = 0;
  expect_advice(check_state_dir(dir), Level::kError, "too little for any job");
  dir.filesystem.free_bytes = (int64_t{64} << 20) - 1;
  dir.mode = 0777;  // what stops jobs is said first
  expect_advice(check_state_dir(dir), Level::kError, "too little for any job");
  dir = state_dir();
  dir.own = false;
  expect_advice(check_state_dir(dir), Level::kWarning, "another user");
  dir = state_dir();
  dir.mode = 0777;
  expect_advice(check_state_dir(dir), Level::kWarning, "chmod 700");
}

TEST(Doctor, NetworkAndMemoryFileSystemsAreNamed) {
  StateDir dir = state_dir();
  const std::vector<std::pair<uint64_t, const char*>> network = {
      {0x6969, "NFS"}, {0x01021997, "9p"}, {0x65735546, "FUSE"}};
  for (const auto& [magic, name] : network) {
    dir.filesystem = filesystem_of_type(magic);
    dir.filesystem.free_bytes = 100 * kGib;
    expect_advice(check_state_dir(dir), Level::kError, name);
  }
  dir.filesystem = filesystem_of_type(0x01021994);
  dir.filesystem.free_bytes = 100 * kGib;
  expect_advice(check_state_dir(dir), Level::kWarning, "lost at a restart");
}

TEST(Doctor, KeysThatOthersReadAreAnError) {
  expect_advice(check_keys(false, {}), Level::kOk, "none yet");
  expect_advice(check_keys(true, {}), Level::kOk, "private");
  expect_advice(check_keys(true, {"/s/keys/client.key"}), Level::kError,
                "chmod 600 /s/keys/client.key");
}

TEST(Doctor, ACoordinatorMayBeAbsentButNotSilentOrOld) {
  expect_advice(check_coordinator(Status(Code::kNoCoordinator, "none"), 0, "", "1"), Level::kOk,
                "none is running");
  expect_advice(check_coordinator(Status(), 7, "1", "1"), Level::kOk, "pid 7");
  expect_advice(check_coordinator(Status(), 7, "0", "1"), Level::kWarning, "dsv3ctl down");
  expect_advice(check_coordinator(Status(Code::kTimeout, "no answer"), 7, "", "1"), Level::kError,
                "no answer");
}

TEST(Doctor, LeftOverVariablesAndAWrongClockAreWarnings) {
  EXPECT_TRUE(is_tuning_variable("OMP_NUM_THREADS"));
  EXPECT_TRUE(is_tuning_variable("NCCL_DEBUG"));
  EXPECT_FALSE(is_tuning_variable("HOME"));
  expect_advice(check_environment({}, 8), Level::kOk, "nothing");
  expect_advice(check_environment({"OMP_NUM_THREADS=1", "NCCL_DEBUG=INFO"}, 8), Level::kWarning,
                "unset OMP_NUM_THREADS NCCL_DEBUG");
  expect_advice(check_clock(1000, 900, true), Level::kOk, "synchronised");
  expect_advice(check_clock(1000, 5000, true), Level::kWarning, "behind");
  expect_advice(check_presets("/p", 9, ""), Level::kOk, "9 in /p");
  expect_advice(check_presets("/p", 0, "demo.yaml:3:1: bad"), Level::kError, "demo.yaml:3:1");
  expect_advice(check_tools({"ssh"}, {"sbatch"}), Level::kOk, "absent: sbatch");
}

TEST(Doctor, ANumberOfThreadsThatCannotBeMeantIsAnError) {
  const auto check = [](const std::string& value) {
    return check_environment({"NCCL_DEBUG=INFO", "OMP_NUM_THREADS=" + value}, 8);
  };
  for (const char* value : {"abc", "", "0", "-2", "4x", "4,", "1e3"})
    expect_advice(check(value), Level::kError, "is not a number of threads");
  for (const char* value : {"33", "99999999999999999999", "4,100"})
    expect_advice(check(value), Level::kError, "at most 8");
  for (const char* value : {"1", "32", "4,2"})
    expect_advice(check(value), Level::kWarning, "unset NCCL_DEBUG OMP_NUM_THREADS");
}

}  // namespace
}  // namespace dsv3::cli
