// The plan object of CLI.md, written and read back.
//
// Law: field names are CLI.md's and stay; what is unknown is null, what is none is 0 or an empty
// list.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cluster/plan/plan.h"

namespace dsv3::plan {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json to_json(const Layout& layout) {
  return {{"tp", layout.tp},
          {"cp", layout.cp},
          {"pp", layout.pp},
          {"ep", layout.ep},
          {"dp", layout.dp},
          {"etp", layout.etp},
          {"dense_dp", layout.dense_dp()},
          {"expert_dp", layout.expert_dp()},
          {"zero_stage", layout.zero_stage},
          {"schedule", layout.schedule},
          {"recompute", layout.recompute},
          {"micro_batch", layout.micro_batch},
          {"grad_accumulation", layout.grad_accumulation},
          {"virtual_stages", layout.virtual_stages},
          {"moments_dtype", layout.moments_dtype},
          {"grads_dtype", layout.grads_dtype},
          {"offload_optimizer", layout.offload_optimizer},
          {"pipeline_layers", layout.pipeline_layers}};
}

Json to_json(const Predicted& predicted) {
  return {{"peak_memory_bytes", predicted.peak_memory_bytes},
          {"step_s", or_null(predicted.step_s)},
          {"tokens_per_s", or_null(predicted.tokens_per_s)},
          {"tokens_per_s_per_gpu", or_null(predicted.tokens_per_s_per_gpu)},
          {"mfu", or_null(predicted.mfu)},
          {"days", or_null(predicted.days)},
          {"cost_usd", or_null(predicted.cost_usd)}};
}

Json to_json(const RankPlacement& rank) {
  return {{"global_rank", rank.global_rank},
          {"tp_rank", rank.tp_rank},
          {"cp_rank", rank.cp_rank},
          {"ep_rank", rank.ep_rank},
          {"dp_rank", rank.dp_rank},
          {"pp_stage", rank.pp_stage},
          {"node", rank.node},
          {"device_idx", rank.device_idx}};
}

Json to_json(const std::vector<LedgerLine>& ledger) {
  Json lines = Json::array();
  for (const LedgerLine& line : ledger)
    lines.push_back({{"name", line.name}, {"bytes", line.bytes}});
  return lines;
}

// Throws for what is no JSON, and for numbers that no integer could hold: a field that counts is
// read as one, whatever the text writes.
Json parsed(const std::string& text) {
  return Json::parse(text, [](int, Json::parse_event_t event, Json& value) {
    const bool number = event == Json::parse_event_t::value && value.is_number_float();
    if (number && !(std::abs(value.get<double>()) < 0x1p63))
      throw std::out_of_range("a number is absurdly large");
    return true;
  });
}

std::vector<LedgerLine> read_ledger(const Json& json) {
  std::vector<LedgerLine> ledger;
  for (const Json& line : json) ledger.push_back({line.at("name"), line.at("bytes")});
  return ledger;
}

// Sizes of at least 1.
void check_product(std::initializer_list<int64_t> sizes, int64_t most) {
  int64_t room = most;
  for (const int64_t size : sizes) room /= size;
  if (room < 1)
    throw std::out_of_range("the sizes of a layout make up too many ranks or sequences");
}

Layout read_layout(const Json& json) {
  Layout layout;
  layout.tp = json.at("tp");
  layout.cp = json.at("cp");
  layout.pp = json.at("pp");
  layout.ep = json.at("ep");
  layout.dp = json.at("dp");
  layout.etp = json.at("etp");
  layout.zero_stage = json.at("zero_stage");
  layout.schedule = json.at("schedule");
  layout.recompute = json.at("recompute");
  layout.micro_batch = json.at("micro_batch");
  layout.grad_accumulation = json.at("grad_accumulation");
  layout.virtual_stages = json.value("virtual_stages", int64_t{1});
  layout.moments_dtype = json.value("moments_dtype", "fp32");
  layout.grads_dtype = json.value("grads_dtype", "fp32");
  layout.offload_optimizer = json.value("offload_optimizer", false);
  layout.pipeline_layers = json.value("pipeline_layers", std::vector<int64_t>{});
  for (const int64_t size : {layout.tp, layout.cp, layout.pp, layout.ep, layout.dp, layout.etp,
                             layout.micro_batch, layout.grad_accumulation, layout.virtual_stages}) {
    if (size < 1 || size > (int64_t{1} << 24)) {
      throw std::out_of_range("a layout size is below 1 or absurdly large");
    }
  }
  // As many ranks, and sequences a step, as fit into a number.
  check_product({layout.tp, layout.cp, layout.pp, layout.ep, layout.dp}, int64_t{1} << 24);
  check_product({layout.ep, layout.dp, layout.micro_batch, layout.grad_accumulation},
                int64_t{1} << 40);
  return layout;
}

// Of a layout that is run: layers for each of PP·VPP stages, where they are given.
void check_stages(const Layout& layout) {
  const std::vector<int64_t>& given = layout.pipeline_layers;
  if (given.empty()) return;
  const bool fits = static_cast<int64_t>(given.size()) == layout.pp * layout.virtual_stages;
  const bool counts = std::all_of(given.begin(), given.end(), [](int64_t layers) {
    return layers >= 1 && layers <= (int64_t{1} << 24);
  });
  if (!fits || !counts) throw std::out_of_range("pipeline_layers doesn't fit the stages");
}

template <typename T>
void read_optional(const Json& json, const char* key, std::optional<T>* value) {
  const auto found = json.find(key);
  if (found != json.end() && !found->is_null()) *value = found->template get<T>();
}

Plan read_plan(const Json& json) {
  Plan plan;
  plan.feasible = json.at("feasible");
  plan.runnable = json.at("runnable");
  plan.reason = json.value("reason", "");
  plan.not_runnable = json.value("not_runnable", std::vector<std::string>{});
  plan.device = json.value("device", "cpu") == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
  plan.gpus = json.at("gpus");
  plan.memory_bytes = json.value("memory_bytes", int64_t{0});
  plan.layout = read_layout(json.at("layout"));
  if (plan.feasible) check_stages(plan.layout);  // a refusal may show a split that doesn't fit
  plan.why = json.value("why", "");
  for (const Json& line : json.value("time", Json::array()))
    plan.time.push_back({line.at("name"), line.at("seconds")});
  if (const Json by = json.value("timed_by", Json()); !by.is_null()) {
    plan.timed_by = {by.at("name"), by.at("source"), by.at("measured"), by.at("assumed")};
  }
  const Json& predicted = json.at("predicted");
  plan.predicted.peak_memory_bytes = predicted.at("peak_memory_bytes");
  read_optional(predicted, "step_s", &plan.predicted.step_s);
  read_optional(predicted, "tokens_per_s", &plan.predicted.tokens_per_s);
  read_optional(predicted, "tokens_per_s_per_gpu", &plan.predicted.tokens_per_s_per_gpu);
  read_optional(predicted, "mfu", &plan.predicted.mfu);
  read_optional(predicted, "days", &plan.predicted.days);
  read_optional(predicted, "cost_usd", &plan.predicted.cost_usd);
  plan.ledger = read_ledger(json.at("ledger"));
  plan.worst_rank = json.at("worst_rank");
  for (const Json& stage : json.value("stages", Json::array()))
    plan.stage_ledgers.push_back(read_ledger(stage.at("ledger")));
  for (const Json& rank : json.at("ranks")) {
    plan.ranks.push_back({rank.at("global_rank"), rank.at("tp_rank"), rank.at("cp_rank"),
                          rank.at("ep_rank"), rank.at("dp_rank"), rank.at("pp_stage"),
                          rank.at("node"), rank.value("device_idx", int64_t{0})});
  }
  read_optional(json, "gpus_needed", &plan.gpus_needed);
  plan.gpu_label_gb = json.value("gpu_label_gb", 80.0);
  for (const Json& rejected : json.at("rejected")) {
    Rejected other{read_layout(rejected.at("layout")), rejected.at("reason"),
                   rejected.value("peak_memory_bytes", int64_t{0}), std::nullopt};
    read_optional(rejected, "step_s", &other.step_s);
    plan.rejected.push_back(std::move(other));
  }
  return plan;
}

}  // namespace

std::string layout_json(const Layout& layout) {
  return to_json(layout).dump();
}

std::string plan_json(const Plan& plan) {
  Json stages = Json::array();
  for (const auto& ledger : plan.stage_ledgers)
    stages.push_back({{"pp_stage", stages.size()}, {"ledger", to_json(ledger)}});
  Json time = Json::array();
  for (const TimeLine& line : plan.time)
    time.push_back({{"name", line.name}, {"seconds", line.seconds}});
  Json timed_by = nullptr;
  if (plan.timed_by) {
    timed_by = {{"name", plan.timed_by->name},
                {"source", plan.timed_by->source},
                {"measured", plan.timed_by->measured},
                {"assumed", plan.timed_by->assumed}};
  }
  Json ranks = Json::array();
  for (const RankPlacement& rank : plan.ranks) ranks.push_back(to_json(rank));
  Json rejected = Json::array();
  for (const Rejected& other : plan.rejected) {
    rejected.push_back({{"layout", to_json(other.layout)},
                        {"reason", other.reason},
                        {"peak_memory_bytes", other.peak_memory_bytes},
                        {"step_s", or_null(other.step_s)}});
  }
  const Json json{{"schema_version", 1},
                  {"feasible", plan.feasible},
                  {"runnable", plan.runnable},
                  {"reason", plan.reason},
                  {"not_runnable", plan.not_runnable},
                  {"device", device_kind_name(plan.device)},
                  {"gpus", plan.gpus},
                  {"memory_bytes", plan.memory_bytes},
                  {"layout", to_json(plan.layout)},
                  {"why", plan.why},
                  {"predicted", to_json(plan.predicted)},
                  {"time", time},
                  {"timed_by", timed_by},
                  {"ledger", to_json(plan.ledger)},
                  {"worst_rank", plan.worst_rank},
                  {"stages", stages},
                  {"ranks", ranks},
                  {"gpus_needed", or_null(plan.gpus_needed)},
                  {"gpu_label_gb", plan.gpu_label_gb},
                  {"rejected", rejected}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<Layout> parse_layout(const std::string& json) {
  try {
    return read_layout(parsed(json));
  } catch (const std::exception& fault) {
    return Status(Code::kInvalid, std::string("not a layout: ") + fault.what());
  }
}

Result<Plan> parse_plan(const std::string& json) {
  try {
    return read_plan(parsed(json));
  } catch (const std::exception& fault) {
    return Status(Code::kInvalid, std::string("not a plan: ") + fault.what(),
                  "write it with dsv3ctl plan --json");
  }
}

}  // namespace dsv3::plan
