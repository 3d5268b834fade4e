// `dsv3-worker profile`: a few steps of a job with every op timed, as a table of 80 columns or
// JSON.
//
// Law: the rows and "outside ops" sum to the step; what is measured is runtime/train/profile.h's.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file.h"
#include "base/text.h"
#include "cluster/plan/calibration.h"
#include "cluster/plan/step_ops.h"
#include "configs/spec/parse.h"
#include "runtime/train/profile.h"
#include "worker/rank/verb_io.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

using Json = nlohmann::ordered_json;
using train::ProfileRow;
using train::StepProfile;

Json optional_text(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

// Seconds of rows as a calibration of this machine predicts them.
class Prediction {
 public:
  Prediction() = default;
  Prediction(plan::DeviceModel device, const train::ProfileOptions& options)
      : device_(std::move(device)) {
    plan::Layout layout;
    layout.zero_stage = 0;
    layout.dp = options.data_ranks;
    layout.micro_batch = options.spec.training.micro_batch_size;
    layout.grad_accumulation =
        options.spec.training.global_batch_size / options.data_ranks / layout.micro_batch;
    layout.moments_dtype = options.spec.training.moments_dtype;
    ops_ = plan::step_ops(options.spec, layout);
  }
  bool empty() const { return ops_.empty(); }
  // Absent: an op that the planner doesn't know.
  std::optional<double> seconds(const ProfileRow& row) const {
    for (const plan::StepOp& op : ops_) {
      std::vector<int64_t> shape(op.shape.begin(), op.shape.end());
      while (!shape.empty() && shape.back() == 0) shape.pop_back();
      if (op.op != row.op || op.role != row.role || op.dtype != row.dtype || shape != row.shape)
        continue;
      plan::StepOp call = op;
      call.flops = row.flops / row.calls;
      call.bytes = row.bytes / row.calls;
      return row.calls * device_.seconds(call);
    }
    return std::nullopt;
  }
  // Without communication.
  double step_s() const { return plan::seconds(device_, ops_); }

 private:
  plan::DeviceModel device_;
  std::vector<plan::StepOp> ops_;
};

Result<Prediction> predict(const std::string& file, const train::ProfileOptions& options) {
  if (file.empty()) return Prediction();
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(file));
  DSV3_ASSIGN_OR_RETURN(plan::Calibration calibration, plan::parse_calibration(text));
  return Prediction(plan::calibrated_device_model(
                        std::make_shared<const plan::Calibration>(std::move(calibration)),
                        options.spec.training.dtype, options.data_ranks),
                    options);
}

Json optional_number(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json row_json(const ProfileRow& row, double step_s, const Prediction& prediction) {
  return {{"op", row.op},
          {"role", optional_text(row.role)},
          {"place", optional_text(row.place)},
          {"shape", row.shape},
          {"dtype", dtype_name(row.dtype)},
          {"calls", row.calls},
          {"seconds", row.seconds},
          {"share", row.seconds / step_s},
          {"flops", row.flops},
          {"bytes", row.bytes},
          {"bound", row.compute_bound ? "compute" : "memory"},
          {"limit_share", row.seconds > 0 ? Json(row.limit_s / row.seconds) : Json(nullptr)},
          {"predicted_s", optional_number(prediction.seconds(row))}};
}

void print_json(const StepProfile& profile, const Prediction& prediction) {
  Json ops = Json::array();
  for (const ProfileRow& row : profile.rows)
    ops.push_back(row_json(row, profile.step_s, prediction));
  print_object(
      {{"checkpoint", optional_text(profile.checkpoint)},
       {"first_step", profile.first_step},
       {"device", profile.device},
       {"compute_dtype", dtype_name(profile.compute_dtype)},
       {"steps", profile.steps},
       {"tokens_per_step", profile.tokens},
       {"step_s", profile.step_s},
       {"predicted_step_s", prediction.empty() ? Json(nullptr) : Json(prediction.step_s())},
       {"outside_s", profile.outside_s},
       {"tokens_per_s", profile.tokens_per_s},
       {"mfu", profile.mfu},
       {"peak_flops_per_s", profile.peak_flops_per_s},
       {"peak_f32_flops_per_s", profile.peak_f32_flops_per_s},
       {"copy_bytes_per_s", profile.copy_bytes_per_s},
       {"ops", ops}});
}

// "4096x512x256".
std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

// The names of a linear layer's products as the code has them: y = x Wᵀ, dx = dy W, dW = dyᵀ x.
std::string op_text(const ProfileRow& row) {
  std::string op = row.op;
  if (row.role == "weight grad") op = op.starts_with("grouped") ? "grouped_gemm" : "gemm";
  if (row.role == "forward") return op + " y";
  if (row.role == "input grad") return op + " dx";
  return row.role == "weight grad" ? op + " dW" : op;
}

// The parameter in few letters, or else the shape; with the dtype where it is another than the
// model computes in.
std::string place_text(const ProfileRow& row, DType compute) {
  std::string place = row.place;
  if (place.empty()) {
    const bool other = row.dtype != compute && !row.shape.empty();
    return shape_text(row.shape) + (other ? fmt::format(" {}", dtype_name(row.dtype)) : "");
  }
  if (place.starts_with("mlp.")) place.erase(0, 4);
  for (const std::string_view suffix : {"_proj", "_layernorm"}) {
    if (place.ends_with(suffix)) place.resize(place.size() - suffix.size());
  }
  if (const size_t at = place.find("shared_experts"); at != std::string::npos)
    place.replace(at, 14, "shared");
  return place;
}

std::string rate_text(const ProfileRow& row) {
  if (row.seconds <= 0) return "-";
  const double rate = (row.compute_bound ? row.flops : row.bytes) / row.seconds * 1e-9;
  return fmt::format("{:.{}f} {}", rate, rate < 99.95 ? 1 : 0,
                     row.compute_bound ? "GFLOP/s" : "GB/s");
}

// Rows that read the same (the last, shorter piece of a head) become one.
std::vector<ProfileRow> folded(const StepProfile& profile) {
  std::vector<ProfileRow> out;
  const DType compute = profile.compute_dtype;
  for (const ProfileRow& row : profile.rows) {
    const auto same = std::find_if(out.begin(), out.end(), [&](const ProfileRow& other) {
      return op_text(other) == op_text(row) &&
             place_text(other, compute) == place_text(row, compute) && other.dtype == row.dtype &&
             other.compute_bound == row.compute_bound;
    });
    if (same == out.end()) {
      out.push_back(row);
      continue;
    }
    same->calls += row.calls;
    same->seconds += row.seconds;
    same->flops += row.flops;
    same->bytes += row.bytes;
    same->limit_s += row.limit_s;
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return out;
}

void print_line(std::string_view op, std::string_view place, const std::string& calls,
                double seconds, double step_s, const std::string& rate, const std::string& limit) {
  std::string line = fmt::format("{:<22.22} {:<16.16} {:>6} {:>8.2f} {:>5.1f} {:>12} {:>5}", op,
                                 place, calls, seconds * 1e3, 100 * seconds / step_s, rate, limit);
  line.resize(line.find_last_not_of(' ') + 1);
  fmt::print("{}\n", line);
}

// The last column: the share of the limit, or predicted by measured.
std::string last_text(const ProfileRow& row, const Prediction& prediction) {
  if (row.seconds <= 0) return "-";
  if (prediction.empty()) return fmt::format("{:.0f} %", 100 * row.limit_s / row.seconds);
  const std::optional<double> predicted = prediction.seconds(row);
  return predicted ? fmt::format("{:.2f}", *predicted / row.seconds) : "-";
}

void print_table(const StepProfile& profile, const Prediction& prediction) {
  fmt::print("{:<22} {:<16} {:>6} {:>8} {:>5} {:>12} {:>5}\n", "OP", "PLACE OR SHAPE", "CALLS",
             "MS", "%", "RATE", prediction.empty() ? "LIMIT" : "PRED");
  // Predictions are by shape, which folding would lose.
  for (const ProfileRow& row : prediction.empty() ? folded(profile) : profile.rows) {
    print_line(op_text(row), place_text(row, profile.compute_dtype),
               fmt::format("{:.0f}", row.calls), row.seconds, profile.step_s, rate_text(row),
               last_text(row, prediction));
  }
  print_line("outside ops", "", "", profile.outside_s, profile.step_s, "", "");
  print_line("step", "", "", profile.step_s, profile.step_s, "", "");
  fmt::print("mean of {} step{} of {} tokens on {}, {}\n", profile.steps,
             profile.steps == 1 ? "" : "s", with_commas(profile.tokens), profile.device,
             profile.checkpoint.empty() ? "initial weights"
                                        : fmt::format("from step {}", profile.first_step));
  const std::string f32 =
      profile.compute_dtype == DType::kF32
          ? ""
          : fmt::format(", f32 GEMM {:.0f} GFLOP/s", profile.peak_f32_flops_per_s * 1e-9);
  fmt::print("limits: {} GEMM {:.0f} GFLOP/s{}, copy {:.1f} GB/s\n",
             dtype_name(profile.compute_dtype), profile.peak_flops_per_s * 1e-9, f32,
             profile.copy_bytes_per_s * 1e-9);
  fmt::print("{} tokens/s, mfu {:.1f} %\n", with_commas(static_cast<int64_t>(profile.tokens_per_s)),
             100 * profile.mfu);
  if (!prediction.empty())
    fmt::print("predicted {:.2f} ms, {:.2f} of the measured\n", 1e3 * prediction.step_s(),
               prediction.step_s() / profile.step_s);
}

}  // namespace

int profile_verb(const std::vector<std::string>& arguments) {
  train::ProfileOptions options;
  std::string spec, calibration;
  bool json = false;
  CLI::App app("Where the time of a training step goes, op by op");
  app.name("dsv3ctl profile");
  app.add_option("--spec", spec, "a YAML file or the name of a preset: what one process trains")
      ->required();
  app.add_option("--checkpoint-dir", options.checkpoint_dir, "a job's folder of checkpoints");
  app.add_option("--data-ranks", options.data_ranks, "share the batch; one of them is measured")
      ->check(CLI::PositiveNumber);
  app.add_option("--steps", options.steps, "steps that are measured")->check(CLI::Range(1, 10000));
  app.add_option("--calibration", calibration, "predict each op by this file");
  app.add_flag("--json", json, "print one JSON object");
  return run_verb(app, arguments, json, [&]() -> Status {
    DSV3_ASSIGN_OR_RETURN(options.spec, spec::load_valid(spec));
    DSV3_ASSIGN_OR_RETURN(const Prediction prediction, predict(calibration, options));
    ProgressLine line;
    options.progress = [&line](std::string_view phase, int64_t done, int64_t total) {
      line.show(phase, done, total);
    };
    DSV3_ASSIGN_OR_RETURN(const StepProfile profile, train::profile_steps(options));
    line.end();
    if (json) {
      print_json(profile, prediction);
    } else {
      print_table(profile, prediction);
    }
    if (train::beats_its_limit(folded(profile)))
      fmt::print(stderr,
                 "the machine was busy while the limits were measured: LIMIT and mfu are too "
                 "high; profile again when it is quiet\n");
    return {};
  });
}

}  // namespace dsv3::rank
