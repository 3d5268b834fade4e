// Opening devices: what is there works, what is not is named.
#include "runtime/device/device.h"

#include <gtest/gtest.h>

namespace dsv3::device {
namespace {

TEST(Device, CpuOpensAndSaysHowManyThreads) {
  const auto device = open_device("cpu");
  ASSERT_TRUE(device.ok()) << device.status().to_string();
  EXPECT_EQ((*device)->kind(), "cpu");
  EXPECT_EQ((*device)->description().find("cpu ("), 0u);
}

TEST(Device, AnAbsentPluginIsNamedWithItsPath) {
  // The tests' folder holds no plug-in: it lies beside the binaries.
  const auto device = open_device("cuda");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), Code::kDevice);
  EXPECT_NE(device.status().message().find("libdsv3_cuda.so"), std::string::npos);
  EXPECT_FALSE(device.status().hint().empty());
}

TEST(Device, AnUnknownKindIsInvalid) {
  const auto device = open_device("tpu");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), Code::kInvalid);
  EXPECT_NE(device.status().message().find("tpu"), std::string::npos);
}

}  // namespace
}  // namespace dsv3::device
