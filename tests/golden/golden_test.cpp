// The model against other people's code: logits, losses, routing, gradients and the bias update of
// every fixture in data/, on the CPU back end and on the scalar reference. README.md has the
// definitions, the tolerances and what each case is for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "configs/spec/parse.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/device/device.h"
#include "runtime/model/transformer.h"
#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::model {
namespace {

const std::string kData = std::string(DSV3_SOURCE_DIR) + "/tests/golden/data/";

// The fixtures that are there: adding one to data/ adds a test.
std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kData)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<device::Device> make_device(const std::string& kind) {
  if (kind == "reference") {
    return std::make_unique<device::Device>(kind, std::make_unique<reference::ReferenceBackend>());
  }
  auto device = device::open_device(kind);
  EXPECT_TRUE(device.ok()) << device.status().to_string();
  return std::move(device).value();
}

template <typename T>
std::vector<T> read_raw(const checkpoint::SafetensorsFile& file, const std::string& name) {
  const checkpoint::SafetensorsTensor* tensor = file.find(name);
  EXPECT_NE(tensor, nullptr) << name;
  if (!tensor) return {};
  std::vector<T> values(static_cast<size_t>(tensor->num_elements()));
  EXPECT_EQ(file.bytes(*tensor).size(), values.size() * sizeof(T)) << name;
  std::memcpy(values.data(), file.bytes(*tensor).data(), values.size() * sizeof(T));
  return values;
}

double largest(const std::vector<float>& values) {
  double result = 0;
  for (float v : values) result = std::max(result, std::fabs(static_cast<double>(v)));
  return result;
}

// The largest difference; infinite when sizes differ or a value is not a number.
double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double result = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= result)) result = std::isnan(d) ? INFINITY : d;
  }
  return result;
}

// A fixture's model on a device, with its weights loaded.
struct Fixture {
  Fixture(const std::string& kind, const std::string& name, DType compute)
      : device(make_device(kind)),
        arena(*device),
        file(checkpoint::SafetensorsFile::open(kData + name + ".safetensors").value()) {
    const Result<spec::Parsed> parsed = spec::load(kData + name + ".yaml");
    EXPECT_TRUE(parsed.ok() && parsed->ok()) << name;
    job = parsed->job;
    tokens = read_raw<int32_t>(file, "input/tokens");
    const int64_t sequence = job.training.seq_length;
    const auto sequences = static_cast<int64_t>(tokens.size()) / (sequence + 1);
    const TransformerOptions options{
        .sequence = sequence, .global_sequences = sequences, .compute = compute};
    model = std::make_unique<Transformer>(job.model, options, arena);
    ParamStore& params = model->params();
    for (const ParamSlice& slice : params.layout().slices) {
      const std::vector<float> values = read_raw<float>(file, "param/" + slice.info.name);
      EXPECT_EQ(static_cast<int64_t>(values.size()), slice.info.num_elements()) << slice.info.name;
      params.set(slice.offset, values);
    }
    for (int64_t i = 0; job.model.moe.use_aux_loss_free && i < model->num_moe_layers(); ++i) {
      const std::vector<float> bias = read_raw<float>(file, "param/" + model->router_bias_name(i));
      params.write(model->router_bias(), i * job.model.moe.num_experts, bias);
    }
  }

  bool has(const std::string& name) const { return file.find(name) != nullptr; }
  std::vector<float> floats(const std::string& name) const { return read_raw<float>(file, name); }
  std::vector<float> host(const tensor::Tensor& t) const {
    std::vector<float> values(static_cast<size_t>(t.num_elements()));
    device->backend().copy_to_host(values.data(), t.data, values.size() * sizeof(float),
                                   device->stream());
    device->synchronize();
    return values;
  }
  double total_loss() const {
    const StepState& step = model->step();
    return step.host_scalar(Scalar::kLmLoss) +
           job.model.mtp_loss_weight * step.host_scalar(Scalar::kMtpLoss) +
           step.host_scalar(Scalar::kAuxLoss) + step.host_scalar(Scalar::kZLoss);
  }
  void train_step() {
    model->step().reset();
    model->params().zero_grad();
    model->train_micro_batch(tokens);
    model->step().read_back();
  }
  // Gradients of every parameter: within `own` of its own largest + `all` of the model's largest.
  void expect_gradients(double own, double all) const {
    const ParamStore& params = model->params();
    double model_largest = 0;
    for (const ParamSlice& slice : params.layout().slices) {
      model_largest = std::max(model_largest, largest(floats("grad/" + slice.info.name)));
    }
    for (const ParamSlice& slice : params.layout().slices) {
      const std::vector<float> want = floats("grad/" + slice.info.name);
      std::vector<float> got(want.size());
      params.read(params.grad(), slice.offset, got);
      EXPECT_LE(largest_difference(got, want), own * largest(want) + all * model_largest)
          << slice.info.name;
    }
  }

  std::unique_ptr<device::Device> device;
  tensor::Arena arena;
  checkpoint::SafetensorsFile file;
  spec::JobSpec job;
  std::vector<int32_t> tokens;
  std::unique_ptr<Transformer> model;
};

class Golden : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  Golden() : fixture_(std::get<0>(GetParam()), std::get<1>(GetParam()), DType::kF32) {}
  Fixture fixture_;
};

TEST_P(Golden, LogitsAreWithin1e5OfTheLargest) {
  for (int64_t depth = 0; depth <= fixture_.job.model.mtp_layers; ++depth) {
    const tensor::Scope scope(fixture_.arena);
    const std::vector<float> got = fixture_.host(fixture_.model->logits(fixture_.tokens, depth));
    const std::vector<float> want =
        fixture_.floats(depth == 0 ? "out/logits" : "out/mtp_logits/" + std::to_string(depth));
    EXPECT_LE(largest_difference(got, want), 1e-5 * largest(want)) << "depth " << depth;
  }
}

TEST_P(Golden, ExpertsAreChosenExactly) {
  const tensor::Scope scope(fixture_.arena);
  const Transformer& model = *fixture_.model;
  fixture_.model->logits(fixture_.tokens, fixture_.job.model.mtp_layers);
  const auto top_k = fixture_.job.model.moe.num_experts_per_token;
  for (int64_t i = 0; i < model.num_moe_layers(); ++i) {
    const tensor::Tensor& device_idx = model.last_expert_idx(i);
    std::vector<int32_t> got(static_cast<size_t>(device_idx.num_elements()));
    fixture_.device->backend().copy_to_host(got.data(), device_idx.data,
                                            got.size() * sizeof(int32_t), nullptr);
    for (size_t t = 0; t < got.size(); t += static_cast<size_t>(top_k)) {
      std::sort(got.begin() + static_cast<int64_t>(t),
                got.begin() + static_cast<int64_t>(t) + top_k);
    }
    EXPECT_EQ(got,
              read_raw<int32_t>(fixture_.file, "out/topk/" + std::to_string(model.moe_layer(i))));
  }
}

TEST_P(Golden, LossesAreWithin1e5) {
  fixture_.train_step();
  const StepState& step = fixture_.model->step();
  const auto expect = [&](const std::string& name, double got) {
    if (!fixture_.has(name)) return;
    const double want = fixture_.floats(name)[0];
    EXPECT_NEAR(got, want, 1e-5 * std::fabs(want)) << name;
  };
  ASSERT_TRUE(fixture_.has("out/loss") && fixture_.has("out/lm_loss"));
  expect("out/loss", fixture_.total_loss());
  expect("out/lm_loss", step.host_scalar(Scalar::kLmLoss));
  expect("out/mtp_loss", step.host_scalar(Scalar::kMtpLoss));
  expect("out/aux_loss", step.host_scalar(Scalar::kAuxLoss));
  expect("out/z_loss", step.host_scalar(Scalar::kZLoss));
}

TEST_P(Golden, EveryGradientIsWithin1e4OfItsLargest) {
  fixture_.train_step();
  fixture_.expect_gradients(1e-4, 1e-7);
}

TEST_P(Golden, CountsAreExactAndMoveTheBias) {
  fixture_.train_step();
  Transformer& model = *fixture_.model;
  for (int64_t i = 0; i < model.num_moe_layers(); ++i) {
    const auto got = model.step().host_counts(i);
    EXPECT_EQ(std::vector<int64_t>(got.begin(), got.end()),
              read_raw<int64_t>(fixture_.file, "out/counts/" + std::to_string(model.moe_layer(i))));
  }
  if (!fixture_.job.model.moe.use_aux_loss_free) return;
  model.update_router_bias();
  const std::vector<float> bias = fixture_.host(model.router_bias());
  const auto experts = fixture_.job.model.moe.num_experts;
  for (int64_t i = 0; i < model.num_moe_layers(); ++i) {
    const std::vector<float> got(bias.begin() + i * experts, bias.begin() + (i + 1) * experts);
    const std::vector<float> want =
        fixture_.floats("out/bias_after/" + std::to_string(model.moe_layer(i)));
    EXPECT_LE(largest_difference(got, want), 1e-7);
  }
}

std::string test_name(const testing::TestParamInfo<std::tuple<std::string, std::string>>& info) {
  return std::get<0>(info.param) + "_" + std::get<1>(info.param);
}
INSTANTIATE_TEST_SUITE_P(Cpu, Golden,
                         testing::Combine(testing::Values("cpu"), testing::ValuesIn(case_names())),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Reference, Golden,
                         testing::Combine(testing::Values("reference"),
                                          testing::ValuesIn(case_names())),
                         test_name);

// bf16 rounds every activation to 8 bits: close enough to be the same model, too coarse for the
// tolerances above. Routing may flip, so only cases that choose every expert, or have none,
// compare gradients.
TEST(GoldenBf16, LossStaysWithinOnePercent) {
  for (const char* name :
       {"base", "yarn", "balance", "mtp2", "tied", "odd_sizes", "rope0", "nope0"}) {
    Fixture fixture("cpu", name, DType::kBf16);
    fixture.train_step();
    const double want = fixture.floats("out/loss")[0];
    EXPECT_NEAR(fixture.total_loss(), want, 0.01 * want) << name;
  }
}

TEST(GoldenBf16, GradientsAreWithinATenthWhereRoutingCannotFlip) {
  for (const char* name : {"all_dense", "all_moe"}) {
    Fixture fixture("cpu", name, DType::kBf16);
    fixture.train_step();
    fixture.expect_gradients(0.1, 1e-3);
  }
}

}  // namespace
}  // namespace dsv3::model
