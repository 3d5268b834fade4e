// Device models: the table's rooflines beside figures that others published, and what holds of any
// of them.
#include "cluster/plan/device_model.h"

#include <gtest/gtest.h>

#include <utility>

#include "cluster/plan/time_model.h"
#include "configs/spec/counts.h"
#include "tests/unit/cluster/plan/table_jobs.h"

namespace dsv3::plan {
namespace {

// Moonlight-16B-A3B (the published shape).
spec::JobSpec moonlight() {
  spec::JobSpec job = testing::table_job("10b");
  spec::ModelSpec& model = job.model;
  model.vocab_size = 163840;
  model.num_layers = 27;
  model.d_model = 2048;
  model.num_heads = 16;
  model.dense_intermediate_size = 11264;
  model.mtp_layers = 0;
  model.mla.kv_lora_rank = 512;
  model.mla.q_lora_rank.reset();
  model.moe.num_experts = 64;
  model.moe.num_experts_per_token = 6;
  model.moe.expert_intermediate_size = 1408;
  model.moe.num_shared_experts = 2;
  model.moe.first_k_dense = 1;
  return job;
}

// Of a whole step, communication and all.
double step_mfu(const spec::JobSpec& job, const Layout& layout, const DeviceModel& device) {
  const double step_s = TimeModel(job, device, 8).step_seconds(layout);
  const double tokens = static_cast<double>(layout.ep * layout.dp * layout.grad_accumulation *
                                            layout.micro_batch * job.training.seq_length);
  const double flops = spec::flops_per_token(job.model, job.training.seq_length).total_with_mtp;
  return tokens * flops / step_s / static_cast<double>(layout.world_size()) /
         device.peak_flops_per_s;
}

// Published: 39.1 % on H100 (Megatron-Bridge); the ceiling of the kernels that the table's shares
// come from is 46.7 % on one GPU without communication.
TEST(GpuModel, MoonlightOnH100StaysBetweenWhatWasReachedAndTheCeiling) {
  const auto device = gpu_device_model("NVIDIA H100 80GB HBM3", "bf16");
  ASSERT_TRUE(device.has_value());
  Layout layout;
  layout.ep = 8;
  layout.micro_batch = 1;
  layout.grad_accumulation = 16;
  const double mfu = step_mfu(moonlight(), layout, *device);
  EXPECT_NEAR(mfu, 0.391, 0.06);
}

// An H100 or H800 that is asked for DeepSeek-V3's ops alone, without any exchange or bubble, must
// be above what whole runs reached of the bf16 peak: 38.9 % with FP8 products (arXiv
// 2505.09343), 27.9 % in bf16 (Megatron-Bridge); and a kernel's ceiling is not far above a whole
// run's.
TEST(GpuModel, DeepSeekV3sOpsAloneAreAboveTheWholeRuns) {
  spec::JobSpec job = testing::table_job("671b");
  Layout layout;
  layout.ep = 64;
  for (const auto& [gpu, dtype, published] :
       {std::tuple{"h100", "bf16", 0.279}, std::tuple{"h800", "fp8", 0.389}}) {
    job.training.dtype = dtype;
    const auto device = gpu_device_model(gpu, dtype);
    ASSERT_TRUE(device.has_value());
    double op_s = 0, flops = 0;
    for (const auto& ops : {layer_forward_ops(job, layout, LayerKind::kMoe),
                            layer_backward_ops(job, layout, LayerKind::kMoe)}) {
      op_s += seconds(*device, ops);
      for (const StepOp& op : ops) flops += op.calls * op.flops;
    }
    const double share = flops / op_s / device->peak_flops_per_s;
    EXPECT_GT(share, published) << dtype;
    EXPECT_LT(share, 2 * published) << dtype;
  }
}

TEST(GpuModel, LargeProductsReachWhatWasMeasured) {
  const DeviceModel h100 = *gpu_device_model("h100", "bf16");
  StepOp op{.op = "gemm", .role = "forward", .cls = OpClass::kGemm, .dtype = DType::kBf16};
  op.shape = {8192, 8192, 8192};
  op.flops = 2.0 * 8192 * 8192 * 8192;
  EXPECT_NEAR(op.flops / h100.seconds(op), 794.5e12, 20e12);  // ml-engineering's MAMF table
  op.shape = {8192, 8192, 64};
  op.flops = 2.0 * 8192 * 8192 * 64;
  EXPECT_LT(op.flops / h100.seconds(op), 400e12) << "a thin product";
  // Causal attention 192/128, one sequence of 4,096 and 128 heads: 599 TFLOP/s (cudnn-frontend).
  StepOp attention{.op = "mla_attention_forward",
                   .cls = OpClass::kAttentionForward,
                   .dtype = DType::kBf16,
                   .shape = {1, 4096, 128}};
  attention.flops = 2.0 * 128 * 4096 * 4097 / 2 * 320;
  EXPECT_NEAR(attention.flops / h100.seconds(attention), 599e12, 10e12);
}

TEST(GpuModel, CardsAreFoundByAnyOfTheirNames) {
  EXPECT_EQ(gpu_device_model("NVIDIA H100 80GB HBM3", "bf16")->name, "h100");
  EXPECT_EQ(gpu_device_model("H100 PCIe", "bf16")->name, "h100pcie");
  EXPECT_EQ(gpu_device_model("NVIDIA GeForce RTX 4090", "bf16")->name, "rtx4090");
  EXPECT_EQ(gpu_device_model("NVIDIA A100-SXM4-80GB", "bf16")->memory_bytes_per_s, 2039e9);
  EXPECT_EQ(gpu_device_model("a100-40", "bf16")->memory_bytes_per_s, 1555e9);
  EXPECT_EQ(gpu_device_model("h1000", "bf16"), std::nullopt);
  EXPECT_EQ(gpu_device_model("", "bf16"), std::nullopt);
}

TEST(GpuModel, SaysThatItsSharesAreNotOurs) {
  const DeviceModel h100 = *gpu_device_model("h100", "bf16");
  EXPECT_FALSE(h100.measured);
  EXPECT_NE(h100.source.find("data sheet"), std::string::npos) << h100.source;
  EXPECT_FALSE(generic_cpu_model(8).measured);
}

TEST(GpuModel, EightBitProductsAreFasterAndUtilisationIsOfBf16sPeak) {
  const DeviceModel bf16 = *gpu_device_model("h100", "bf16"),
                    fp8 = *gpu_device_model("h100", "fp8");
  EXPECT_EQ(bf16.peak_flops_per_s, fp8.peak_flops_per_s);
  StepOp op{.op = "gemm",
            .cls = OpClass::kGemm,
            .dtype = DType::kBf16,
            .fp8 = true,
            .shape = {4096, 4096, 4096}};
  op.flops = 2.0 * 4096 * 4096 * 4096;
  StepOp wide = op;
  wide.fp8 = false;
  EXPECT_NEAR(fp8.seconds(wide) / fp8.seconds(op), 1453 / 794.5, 0.15);
  EXPECT_EQ(fp8.seconds(wide), bf16.seconds(wide)) << "head and router gain nothing";
  // No FP8 on this card.
  EXPECT_EQ(gpu_device_model("a100-80", "fp8")->seconds(op),
            gpu_device_model("a100-80", "bf16")->seconds(op));
}

// The header's law, over the table and what a model asks for.
TEST(GpuModel, NoOpIsFasterThanItsPeak) {
  spec::JobSpec job = testing::table_job("671b");
  for (const char* gpu : {"h100", "h800", "h20", "b200", "l40s", "rtx4090", "a100-80", "t4"}) {
    for (const char* dtype : {"fp32", "bf16", "fp8"}) {
      job.training.dtype = dtype;
      const DeviceModel device = *gpu_device_model(gpu, dtype);
      for (StepOp op : step_ops(job, Layout{})) {
        if (op.flops == 0) continue;
        op.flops *= 1e6;  // as if of a size where nothing but the peak counts
        const double peak = op.dtype == DType::kF32 ? device.peak_f32_flops_per_s
                            : op.fp8 && device.peak_fp8_flops_per_s > 0
                                ? device.peak_fp8_flops_per_s
                                : device.peak_flops_per_s;
        EXPECT_GT(device.seconds(op), op.flops / peak) << gpu << " " << dtype << " " << op.op;
        EXPECT_EQ(device.peak_of(op), peak);
      }
    }
  }
}

TEST(CpuModel, RanksShareTheCores) {
  const DeviceModel whole = generic_cpu_model(4), half = whole.shared_by(2);
  EXPECT_DOUBLE_EQ(half.peak_flops_per_s, whole.peak_flops_per_s / 2);
  EXPECT_TRUE(whole.links_share_cores);
  const DeviceModel h100 = *gpu_device_model("h100", "bf16");
  EXPECT_EQ(h100.shared_by(8).peak_flops_per_s, h100.peak_flops_per_s) << "each has its own";
}

TEST(DeviceModelTime, AnOpMovesItsBytesAtMostAtMemorySpeed) {
  for (const char* gpu : {"h100", "rtx3090", "t4"}) {
    const DeviceModel device = *gpu_device_model(gpu, "bf16");
    StepOp op{.op = "rms_norm_forward", .cls = OpClass::kMemory, .shape = {8192, 4096}};
    op.bytes = 1e9;
    EXPECT_GT(device.seconds(op), 1e9 / device.memory_bytes_per_s) << gpu;
  }
}

}  // namespace
}  // namespace dsv3::plan
