// Hostfiles of both launchers, every refusal with its place, and DeepSpeed's filters.
#include "cluster/inventory/hostfile.h"

#include <gtest/gtest.h>

#include <string>

namespace dsv3::inventory {
namespace {

std::vector<Host> parsed(std::string_view text) {
  auto hosts = parse_hostfile(text, "hosts");
  EXPECT_TRUE(hosts.ok()) << hosts.status().to_string();
  return hosts.ok() ? *hosts : std::vector<Host>{};
}

// "worker-0: 0 1, worker-1: 2" of hosts.
std::string listed(const Result<std::vector<Host>>& hosts) {
  if (!hosts.ok()) return hosts.status().to_string();
  std::string out;
  for (const Host& host : *hosts) {
    out += (out.empty() ? "" : ", ") + host.name + ":";
    for (const int slot : host.slots) out += " " + std::to_string(slot);
  }
  return out;
}

TEST(Hostfile, ReadsDeepSpeedsAndOpenMpisLines) {
  EXPECT_EQ(listed(parse_hostfile("# the cluster\n\nworker-0 slots=2\n  worker-1\tslots=1 # spare\n"
                                  "10.0.0.7 slots=2 max_slots=4\nn_4.rack max-slots=1 slots=1",
                                  "hosts")),
            "worker-0: 0 1, worker-1: 0, 10.0.0.7: 0 1, n_4.rack: 0");
  EXPECT_EQ(parsed("a slots=1\n\n#\nb slots=1\n")[1].line, 4);
  EXPECT_EQ(parsed("\xef\xbb\xbf"
                   "a slots=1\r\nb slots=1\r\n")
                .size(),
            2u);
}

TEST(Hostfile, RefusesWithThePlace) {
  const struct {
    const char* text;
    const char* where;
    const char* says;
  } cases[] = {
      {"", "hosts", "names no host"},
      {"# only\n \t\n", "hosts", "names no host"},
      {"a slots=1\nb slots=1\na slots=2\n", "hosts:3:1", "on line 1 too"},
      {"a\n", "hosts:1:2", "does not say how many"},
      {"a max_slots=2\n", "hosts:1:2", "does not say how many"},
      {"a slots=0\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots=-1\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots=+1\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots=\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots=8x\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots=1025\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots=18446744073709551617\n", "hosts:1:9", "from 1 to 1024"},
      {"a slots = 8\n", "hosts:1:3", "neither slots=N"},
      {"a slots=1 slots=1\n", "hosts:1:11", "twice"},
      {"a slots=4 max_slots=2\n", "hosts:1:1", "below slots=4"},
      {"a slot=8\n", "hosts:1:3", "neither slots=N"},
      {"a 8\n", "hosts:1:3", "neither slots=N"},
      {"a:8\n", "hosts:1:1", "is no host"},
      {"  -oProxyCommand=x slots=8\n", "hosts:1:3", "is no host"},
      {"-rf slots=8\n", "hosts:1:1", "begins with"},
      {".. slots=8\n", "hosts:1:1", "begins with"},
      {"me@a slots=8\n", "hosts:1:1", ".ssh/config"},
      {"a;reboot slots=8\n", "hosts:1:1", "is no host"},
      {"a$(id) slots=8\n", "hosts:1:1", "is no host"},
      {"b\xc3\xa4r slots=8\n", "hosts:1:1", "is no host"},
  };
  for (const auto& [text, where, says] : cases) {
    const auto hosts = parse_hostfile(text, "hosts");
    ASSERT_FALSE(hosts.ok()) << text;
    EXPECT_EQ(hosts.status().code(), Code::kInvalid) << text;
    EXPECT_EQ(hosts.status().where(), where) << text;
    EXPECT_NE(hosts.status().to_string().find(says), std::string::npos)
        << text << hosts.status().to_string();
  }
}

TEST(Hostfile, BytesThatAreNoTextStayOffTheTerminal) {
  const auto hosts = parse_hostfile(std::string_view("a\0b\x1b[2J slots=1", 14), "hosts");
  ASSERT_FALSE(hosts.ok());
  for (const char c : hosts.status().to_string()) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

TEST(Hostfile, LongNamesAndHugeClustersAreRefusedShortly) {
  const auto longest = parse_hostfile(std::string(253, 'a') + " slots=1", "hosts");
  EXPECT_TRUE(longest.ok());
  const auto too_long = parse_hostfile(std::string(100'000, '!') + " slots=1", "hosts");
  ASSERT_FALSE(too_long.ok());
  EXPECT_LT(too_long.status().to_string().size(), 300u);
  std::string text;
  for (int i = 0; i < 64; ++i) text += "h" + std::to_string(i) + " slots=1024\n";
  EXPECT_EQ(parsed(text).size(), 64u);
  const auto too_many = parse_hostfile(text + "one-more slots=1\n", "hosts");
  ASSERT_FALSE(too_many.ok());
  EXPECT_EQ(too_many.status().where(), "hosts:65:1");
}

// The kinds of filter that DeepSpeed's runner documents.
TEST(HostFilter, ChoosesAsDeepSpeedDoes) {
  const std::vector<Host> hosts = parsed("w0 slots=4\nw1 slots=4\n");
  EXPECT_EQ(listed(filter_hosts(hosts, "", "")), "w0: 0 1 2 3, w1: 0 1 2 3");
  EXPECT_EQ(listed(filter_hosts(hosts, "w0@w1:0,2", "")), "w0: 0 1 2 3, w1: 0 2");
  EXPECT_EQ(listed(filter_hosts(hosts, "", "w1:0")), "w0: 0 1 2 3, w1: 1 2 3");
  EXPECT_EQ(listed(filter_hosts(hosts, "", "w0")), "w1: 0 1 2 3");
  EXPECT_EQ(listed(filter_hosts(hosts, "w1:3,1", "")), "w1: 1 3");  // the file's order
  EXPECT_EQ(listed(filter_hosts(hosts, "w1@w0", "")), "w0: 0 1 2 3, w1: 0 1 2 3");
  EXPECT_EQ(listed(filter_hosts(hosts, "", "w0:0,1,2,3")), "w1: 0 1 2 3");
}

TEST(HostFilter, RefusesWhatIsNotThere) {
  const std::vector<Host> hosts = parsed("w0 slots=2\nw1 slots=2\n");
  const struct {
    const char* filter;
    const char* says;
  } cases[] = {
      {"w2", "not in the hostfile"},
      {"w0@", "not in the hostfile"},
      {"w0@w0:1", "named twice"},
      {"w0:2", "no '2'"},
      {"w0:-1", "no '-1'"},
      {"w0:", "no ''"},
      {"w0:1,1", "GPU 1 of"},
      {"w0:0,", "no ''"},
      {"w0:0:1", "no '0:1'"},
      {"w0,w1", "not in the hostfile"},
      {"w0:99999999999", "no '99999999999'"},
  };
  for (const auto& [filter, says] : cases) {
    for (const bool include : {true, false}) {
      const auto kept = filter_hosts(hosts, include ? filter : "", include ? "" : filter);
      ASSERT_FALSE(kept.ok()) << filter;
      EXPECT_EQ(kept.status().where(), include ? "--include" : "--exclude");
      EXPECT_NE(kept.status().message().find(says), std::string::npos)
          << filter << ": " << kept.status().message();
    }
  }
  EXPECT_EQ(filter_hosts(hosts, "w0", "w1").status().code(), Code::kInvalid);
  EXPECT_EQ(filter_hosts(hosts, "", "w0@w1").status().message(), "the filter leaves no GPU");
}

TEST(HostCluster, HasANodePerHostAndItsGpus) {
  const auto cluster = cluster_of_hosts(parsed("b slots=2\na slots=2\n"), 80, "h100");
  ASSERT_TRUE(cluster.ok());
  ASSERT_EQ(cluster->nodes.size(), 2u);
  EXPECT_EQ(cluster->nodes[0].name, "b");
  ASSERT_EQ(cluster->nodes[1].devices.size(), 2u);
  EXPECT_EQ(cluster->nodes[1].devices[1].kind, plan::DeviceKind::kCuda);
  EXPECT_EQ(cluster->nodes[1].devices[1].memory_bytes, plan::usable_gpu_bytes(80));
}

TEST(HostCluster, UnevenHostsAreNamedWithWhatToDo) {
  const auto cluster = cluster_of_hosts(parsed("a slots=8\nb slots=8\nc slots=4\n"), 80, "");
  ASSERT_FALSE(cluster.ok());
  const std::string said = cluster.status().to_string();
  for (const char* part : {"'a' has 8", "'c' 4", "--exclude"})
    EXPECT_NE(said.find(part), std::string::npos) << said;
}

}  // namespace
}  // namespace dsv3::inventory
