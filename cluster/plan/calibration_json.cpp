// A calibration as JSON and back; see calibration.h.
#include <fmt/core.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "base/json_bounds.h"
#include "cluster/plan/calibration.h"

namespace dsv3::plan {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSchemaVersion = 1;
constexpr int64_t kDepthMax = 8;
constexpr size_t kTextMax = 256;
constexpr double kNumberMax = 1e18;
constexpr double kSecondsMin = 1e-10;
// Sizes that a file may have of each op: a curve's grid has their product as cells.
constexpr size_t kCurveCellsMax = 10'000;

Status invalid(const std::string& what) {
  return Status(Code::kInvalid, "the calibration is not usable: " + what,
                "measure again with 'dsv3ctl calibrate'");
}

// Reads fields of one object; the first fault is kept.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("is not an object");
  }
  double number(const char* key, double min, double max = kNumberMax) {
    const auto found = find(key);
    if (found == nullptr) return 0;
    if (!found->is_number()) return fail(fmt::format("{} is not a number", key));
    return checked(key, found->get<double>(), min, max);
  }
  int64_t integer(const char* key, int64_t min, int64_t max) {
    const auto found = find(key);
    if (found == nullptr) return 0;
    if (!found->is_number_integer()) {
      fail(fmt::format("{} is not a whole number", key));
      return 0;
    }
    return static_cast<int64_t>(
        checked(key, found->get<double>(), static_cast<double>(min), static_cast<double>(max)));
  }
  std::string text(const char* key) {
    const auto found = find(key);
    if (found == nullptr) return {};
    if (!found->is_string() || found->get_ref<const std::string&>().size() > kTextMax) {
      fail(fmt::format("{} is not a text of at most {} bytes", key, kTextMax));
      return {};
    }
    return found->get<std::string>();
  }
  const Json& list(const char* key, int64_t max) {
    static const Json empty = Json::array();
    const auto found = find(key);
    if (found == nullptr) return empty;
    if (!found->is_array() || static_cast<int64_t>(found->size()) > max) {
      fail(fmt::format("{} is not a list of at most {}", key, max));
      return empty;
    }
    return *found;
  }
  double fail(const std::string& what) {
    if (status_.ok()) status_ = invalid(where_ + what);
    return 0;
  }
  const Status& status() const { return status_; }

 private:
  const Json* find(const char* key) {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    fail(fmt::format("{} is missing", key));
    return nullptr;
  }
  double checked(const char* key, double value, double min, double max) {
    if (std::isfinite(value) && value >= min && value <= max) return value;
    return fail(fmt::format("{} is {}, not within {} to {}", key, value, min, max));
  }

  const Json& object_;
  std::string where_;
  Status status_;
};

Json point_json(const CalibrationPoint& point) {
  return {{"op", point.op},       {"role", point.role}, {"dtype", dtype_name(point.dtype)},
          {"sizes", point.sizes}, {"work", point.work}, {"seconds", point.seconds}};
}

bool read_dtype(const std::string& name, DType* dtype) {
  for (const DType known : {DType::kF32, DType::kBf16, DType::kI32, DType::kI64, DType::kF64}) {
    if (name != dtype_name(known)) continue;
    *dtype = known;
    return true;
  }
  return false;
}

Status read_point(const Json& json, CalibrationPoint* point) {
  Fields fields(json, "a point's ");
  point->op = fields.text("op");
  point->role = fields.text("role");
  if (const std::string name = fields.text("dtype"); !read_dtype(name, &point->dtype))
    fields.fail("dtype is unknown");
  const Json& sizes = fields.list("sizes", static_cast<int64_t>(point->sizes.size()));
  if (sizes.size() != point->sizes.size()) fields.fail("sizes are not four");
  for (size_t i = 0; i < sizes.size() && fields.status().ok(); ++i) {
    const bool number = sizes[i].is_number();
    const double size = number ? sizes[i].get<double>() : 0;
    if (!number || !(size > 0 && size <= kNumberMax)) fields.fail("sizes are not above 0");
    point->sizes[i] = size;
  }
  point->work = fields.number("work", 1e-3);
  point->seconds = fields.number("seconds", kSecondsMin);
  return fields.status();
}

// A few points with sizes all their own would make a huge, empty grid.
Status check_grids(const CalibrationSet& set) {
  std::map<std::tuple<std::string, std::string, DType>, std::array<std::set<double>, 4>> axes;
  for (const CalibrationPoint& point : set.points) {
    auto& sizes = axes[{point.op, point.role, point.dtype}];
    for (size_t i = 0; i < sizes.size(); ++i) sizes[i].insert(point.sizes[i]);
  }
  for (const auto& [key, sizes] : axes) {
    double cells = 1;
    for (const std::set<double>& axis : sizes) cells *= static_cast<double>(axis.size());
    if (cells > static_cast<double>(kCurveCellsMax))
      return invalid(
          fmt::format("the sizes of {} make a grid of {} cells", std::get<0>(key), cells));
  }
  return {};
}

Status read_set(const Json& json, CalibrationSet* set) {
  Fields fields(json, "a set's ");
  set->ranks = fields.integer("ranks", 1, 1 << 16);
  set->threads = fields.integer("threads", 1, 1 << 16);
  set->peak_bf16_flops_per_s = fields.number("peak_bf16_flops_per_s", 1);
  set->peak_f32_flops_per_s = fields.number("peak_f32_flops_per_s", 1);
  set->copy_bytes_per_s = fields.number("copy_bytes_per_s", 1);
  set->in_step_f32 = {fields.number("in_step_f32", 0.01, 100), fields.number("call_f32_s", 0, 1)};
  set->in_step_bf16 = {fields.number("in_step_bf16", 0.01, 100),
                       fields.number("call_bf16_s", 0, 1)};
  for (const Json& json_point : fields.list("points", kCalibrationPointsMax)) {
    DSV3_RETURN_IF_ERROR(read_point(json_point, &set->points.emplace_back()));
  }
  for (const Json& json_point : fields.list("all_reduce", kCalibrationPointsMax)) {
    Fields point(json_point, "a sum's ");
    set->all_reduce.push_back({point.number("bytes", 1), point.number("seconds", kSecondsMin)});
    DSV3_RETURN_IF_ERROR(point.status());
  }
  DSV3_RETURN_IF_ERROR(fields.status());
  return check_grids(*set);
}

}  // namespace

std::string calibration_json(const Calibration& calibration) {
  Json sets = Json::array();
  for (const CalibrationSet& set : calibration.sets) {
    Json points = Json::array(), sums = Json::array();
    for (const CalibrationPoint& point : set.points) points.push_back(point_json(point));
    for (const AllReducePoint& point : set.all_reduce)
      sums.push_back({{"bytes", point.bytes}, {"seconds", point.seconds}});
    sets.push_back({{"ranks", set.ranks},
                    {"threads", set.threads},
                    {"peak_bf16_flops_per_s", set.peak_bf16_flops_per_s},
                    {"peak_f32_flops_per_s", set.peak_f32_flops_per_s},
                    {"copy_bytes_per_s", set.copy_bytes_per_s},
                    {"in_step_f32", set.in_step_f32.factor},
                    {"call_f32_s", set.in_step_f32.call_s},
                    {"in_step_bf16", set.in_step_bf16.factor},
                    {"call_bf16_s", set.in_step_bf16.call_s},
                    {"points", points},
                    {"all_reduce", sums}});
  }
  const Json json = {{"schema_version", kSchemaVersion},
                     {"machine", calibration.machine},
                     {"date", calibration.date},
                     {"cores", calibration.cores},
                     {"sets", sets}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Calibration> parse_calibration(const std::string& text) {
  // Some ten values a point; what is nested deeper is not ours.
  const JsonBounds bounds = json_bounds(text);
  if (bounds.depth > kDepthMax || bounds.values > 20 * kCalibrationPointsMax * kCalibrationSetsMax)
    return invalid("it is too large");
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return invalid("it is not JSON");
  Fields fields(json, "");
  fields.integer("schema_version", kSchemaVersion, kSchemaVersion);
  Calibration calibration;
  calibration.machine = fields.text("machine");
  calibration.date = fields.text("date");
  calibration.cores = fields.integer("cores", 1, 1 << 16);
  const Json& sets = fields.list("sets", kCalibrationSetsMax);
  DSV3_RETURN_IF_ERROR(fields.status());
  if (sets.empty()) return invalid("it has no sets");
  for (const Json& set : sets) {
    DSV3_RETURN_IF_ERROR(read_set(set, &calibration.sets.emplace_back()));
  }
  return calibration;
}

}  // namespace dsv3::plan
