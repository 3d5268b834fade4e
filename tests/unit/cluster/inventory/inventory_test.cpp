// The probe's parsers on text of real files, and the probe itself against what the system says by
// another way.
#include "cluster/inventory/inventory.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace dsv3::inventory {
namespace {

constexpr const char* kCpuinfo =
    "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C CPU "
    "@ 2.70GHz\n"
    "flags\t\t: fpu sse avx512f amx_bf16 amx_tile\nmodel name\t: second\n";

TEST(Probe, ReadsCpuNameAndFlags) {
  EXPECT_EQ(parse_cpu_name(kCpuinfo), "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz");
  EXPECT_TRUE(parse_cpu_flag(kCpuinfo, "amx_bf16"));
  EXPECT_FALSE(parse_cpu_flag(kCpuinfo, "amx"));  // whole words only
  EXPECT_EQ(parse_cpu_name("nothing here"), "");
  EXPECT_FALSE(parse_cpu_flag("", "sse"));
}

TEST(Probe, ReadsMeminfo) {
  const Memory memory =
      parse_meminfo("MemTotal:       24613416 kB\nMemFree:  1 kB\nMemAvailable:   20000000 kB\n");
  EXPECT_EQ(memory.total_bytes, int64_t{24613416} * 1024);
  EXPECT_EQ(memory.available_bytes, int64_t{20000000} * 1024);
  EXPECT_EQ(parse_meminfo("MemTotal: lots\n").total_bytes, 0);
}

TEST(Probe, ReadsCgroupLimits) {
  EXPECT_EQ(parse_cgroup_limit("4294967296\n"), int64_t{4294967296});
  EXPECT_EQ(parse_cgroup_limit("max\n"), std::nullopt);
  EXPECT_EQ(parse_cgroup_limit("9223372036854771712\n"), std::nullopt);  // v1's "none"
  EXPECT_EQ(parse_cgroup_limit(""), std::nullopt);
  EXPECT_EQ(parse_cgroup_limit("-1\n"), std::nullopt);
}

TEST(Probe, FindsTheMemoryCgroup) {
  bool version2 = false;
  EXPECT_EQ(parse_cgroup_path("0::/user.slice/job\n", &version2), "/user.slice/job");
  EXPECT_TRUE(version2);
  EXPECT_EQ(parse_cgroup_path("12:cpu,cpuacct:/a\n9:memory:/docker/x\n0::/b\n", &version2),
            "/docker/x");
  EXPECT_FALSE(version2);
  EXPECT_EQ(parse_cgroup_path("rubbish\n", &version2), std::nullopt);
}

TEST(Probe, ThisMachineHasCoresAndMemory) {
  const MachineFacts facts = probe_machine();
  EXPECT_FALSE(facts.hostname.empty());
  EXPECT_GE(facts.cores, 1);
  EXPECT_LE(facts.cores, ::sysconf(_SC_NPROCESSORS_CONF));
  const int64_t physical = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  EXPECT_GT(facts.memory.total_bytes, 0);
  EXPECT_LE(facts.memory.total_bytes, physical);
  EXPECT_LE(facts.memory.available_bytes, facts.memory.total_bytes);
  EXPECT_EQ(facts.gpus.empty(), !facts.gpu_note.empty());
}

TEST(Probe, ClusterListsTheCpuBeforeTheGpus) {
  MachineFacts facts;
  facts.hostname = "box";
  facts.cores = 3;
  facts.memory.total_bytes = 1000;
  facts.gpus.push_back({.kind = plan::DeviceKind::kCuda, .name = "card", .uuid = "GPU-1"});
  const plan::ClusterSpec cluster = cluster_of(facts);
  ASSERT_EQ(cluster.nodes.size(), 1u);
  EXPECT_EQ(cluster.nodes[0].name, "box");
  ASSERT_EQ(cluster.nodes[0].devices.size(), 2u);
  EXPECT_EQ(cluster.nodes[0].devices[0].kind, plan::DeviceKind::kCpu);
  EXPECT_EQ(cluster.nodes[0].devices[0].memory_bytes, 1000);
  EXPECT_EQ(cluster.nodes[0].devices[0].cores, 3);
  EXPECT_EQ(cluster.nodes[0].devices[1].uuid, "GPU-1");
}

// The rule of kernels/cpu (AMX, or AVX512-BF16 on AMD); DSV3_CPU_MATMUL aside.
TEST(Probe, KnowsInWhatProductsRun) {
  MachineFacts facts;
  EXPECT_FALSE(multiplies_in_bf16(facts));
  facts.has_avx512_bf16 = true;
  EXPECT_FALSE(multiplies_in_bf16(facts));
  facts.is_amd = true;
  EXPECT_TRUE(multiplies_in_bf16(facts));
  facts = {};
  facts.has_amx_bf16 = true;
  EXPECT_TRUE(multiplies_in_bf16(facts));
}

TEST(Probe, ALibraryThatCannotBeLoadedSaysWhy) {
  EXPECT_NE(try_library("/nonexistent/libx.so", "f").find("/nonexistent/libx.so"),
            std::string::npos);
  EXPECT_EQ(try_library("libm.so.6", "cos"), "");
  EXPECT_NE(try_library("libm.so.6", "no_such_symbol").find("no_such_symbol"), std::string::npos);
}

}  // namespace
}  // namespace dsv3::inventory
