// Reading layouts and setting two side by side; see compare.h.
#include "cluster/plan/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "base/text.h"
#include "cluster/plan/search.h"

namespace dsv3::plan {
namespace {

struct SizeField {
  const char* name;        // of LAYOUT
  const char* short_name;  // as in "TP2"; "" for none
  const char* key;         // of a configuration
  int64_t Layout::*field;
  int64_t most = kRanksMax;
};
constexpr SizeField kSizes[] = {
    {"tp", "tp", "tensor_parallel_size", &Layout::tp},
    {"cp", "cp", "context_parallel_size", &Layout::cp},
    {"pp", "pp", "pipeline_parallel_size", &Layout::pp},
    {"ep", "ep", "expert_parallel_size", &Layout::ep},
    {"dp", "dp", "data_parallel_size", &Layout::dp},
    {"etp", "etp", "expert_tensor_parallel_size", &Layout::etp},
    {"zero_stage", "zero", "zero", &Layout::zero_stage, 3},
    {"micro_batch", "mbs", "micro_batch_size", &Layout::micro_batch, 65536},
    {"grad_accumulation", "accumulate", "grad_accum", &Layout::grad_accumulation},
    {"virtual_stages", "vpp", "virtual_pipeline_stages", &Layout::virtual_stages},
};

struct WordField {
  const char* name;
  const char* key;
  std::string Layout::*field;
  std::vector<std::string_view> values;
};
const std::vector<WordField>& word_fields() {
  static const std::vector<WordField> fields = {
      {"schedule",
       "pipeline_schedule",
       &Layout::schedule,
       {"1f1b", "afab", "interleaved", "zero_bubble"}},
      {"recompute", "recompute", &Layout::recompute, {"none", "selective", "full"}},
      {"moments_dtype", "moments", &Layout::moments_dtype, {"fp32", "bf16"}},
      {"grads_dtype", "gradients", &Layout::grads_dtype, {"fp32", "bf16"}},
  };
  return fields;
}

Status unknown(const std::string& word) {
  std::vector<std::string_view> known = {"offload_optimizer", "micro-batch", "one", "rank",
                                         "stages"};
  for (const SizeField& size : kSizes) {
    known.push_back(size.name);
    known.push_back(size.key);
  }
  for (const WordField& field : word_fields()) {
    known.push_back(field.name);
    known.insert(known.end(), field.values.begin(), field.values.end());
  }
  const std::string near = did_you_mean(word, known);
  return Status(Code::kInvalid, fmt::format("a layout has no '{}'", word),
                near.empty() ? "write one like 'TP2 PP4 EP8 DP1 ZeRO-1 recompute selective' or "
                               "'tp=2 pp=4 ep=8'"
                             : "did you mean '" + near + "'?");
}

// A layout that is being read, and the fields that words have set.
struct Reading {
  Layout layout;
  std::set<std::string_view> given;
};

Status first_time(const char* field, Reading* reading) {
  if (reading->given.insert(field).second) return {};
  return Status(Code::kInvalid, fmt::format("a layout has one {}, this one is given two", field),
                "give it once");
}

Status set_size(const SizeField& size, const std::string& text, Reading* reading) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const int64_t least = size.field == &Layout::zero_stage ? 0 : 1;
  if (error != std::errc() || end != text.data() + text.size() || value < least ||
      value > size.most)
    return Status(Code::kInvalid, fmt::format("{} takes a whole number from {} to {}, not '{}'",
                                              size.name, least, size.most, text));
  reading->layout.*size.field = value;
  return first_time(size.name, reading);
}

Status set_word(const WordField& field, const std::string& value, Reading* reading) {
  if (std::find(field.values.begin(), field.values.end(), value) == field.values.end())
    return Status(Code::kInvalid, fmt::format("{} can't be '{}'", field.name, value),
                  fmt::format("it is one of {}", fmt::join(field.values, ", ")));
  reading->layout.*field.field = value;
  return first_time(field.name, reading);
}

Status set_offload(bool offload, Reading* reading) {
  reading->layout.offload_optimizer = offload;
  return first_time("offload_optimizer", reading);
}

// "3/4/4/3".
Status set_stages(const std::string& text, Reading* reading) {
  for (const std::string& word : split(text, '/')) {
    int64_t layers = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), layers);
    if (error != std::errc() || end != word.data() + word.size() || layers < 1 ||
        layers > kRanksMax)
      return Status(Code::kInvalid,
                    fmt::format("stages are numbers of layers like 3/4/4/3, not '{}'", text));
    reading->layout.pipeline_layers.push_back(layers);
  }
  return first_time("stages", reading);
}

Status set_pair(const std::string& key, const std::string& value, Reading* reading) {
  for (const SizeField& size : kSizes) {
    if (key == size.name || key == size.short_name || key == size.key)
      return set_size(size, value, reading);
  }
  for (const WordField& field : word_fields()) {
    if (key == field.name || key == field.key) return set_word(field, value, reading);
  }
  if (key == "stages" || key == "pipeline_layers") return set_stages(value, reading);
  if (key == "offload_optimizer" || key == "offload") {
    if (value != "true" && value != "false")
      return Status(Code::kInvalid, fmt::format("{} is true or false, not '{}'", key, value));
    return set_offload(value == "true", reading);
  }
  return unknown(key);
}

// "tp2", "zero-1", "micro-batch-2": a name, a number and perhaps a dash between.
bool is_sized(const std::string& word, const SizeField& size, std::string* number) {
  for (const char* name : {size.short_name, size.name}) {
    if (!word.starts_with(name)) continue;
    *number = word.substr(std::string_view(name).size());
    if (number->starts_with("-")) number->erase(0, 1);
    const bool digits = !number->empty() && std::all_of(number->begin(), number->end(), [](char c) {
      return c >= '0' && c <= '9';
    });
    if (digits) return true;
  }
  return false;
}

std::vector<std::string> words_of(std::string text) {
  for (char& c : text) {
    if (c == ',' || c == ';' || c == '\t' || c == '\n') c = ' ';
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  std::vector<std::string> words = split(text, ' ');
  std::erase(words, "");
  return words;
}

// The word at *i, and those behind it that belong to it.
Status take_word(const std::vector<std::string>& words, size_t* i, Reading* reading) {
  const std::string& word = words[*i];
  if (const size_t equals = word.find('='); equals != std::string::npos)
    return set_pair(word.substr(0, equals), word.substr(equals + 1), reading);
  const std::string next = *i + 1 < words.size() ? words[*i + 1] : "";
  if (word == "one" && next == "rank") return ++*i, Status();
  if (word == "offload" || word == "offload_optimizer" || word == "offloaded") {
    if (next == "optimizer") ++*i;
    return set_offload(true, reading);
  }
  if ((word == "bf16" || word == "fp32") &&
      (next == "moments" || next == "grads" || next == "gradients")) {
    return ++*i, set_pair(next == "grads" ? "gradients" : next, word, reading);
  }
  if (word == "stages" || word == "pipeline_layers") return ++*i, set_pair(word, next, reading);
  if (word == "micro-batch" || word == "micro_batch")
    return ++*i, set_pair("micro_batch", next, reading);
  std::string number;
  for (const SizeField& size : kSizes) {
    if (is_sized(word, size, &number)) return set_size(size, number, reading);
  }
  for (const WordField& field : word_fields()) {
    if (word == field.name || word == field.key) return ++*i, set_word(field, next, reading);
    // "selective" alone can only be one thing; the dtypes could be two.
    const bool own =
        std::find(field.values.begin(), field.values.end(), word) != field.values.end();
    if (own && word != "bf16" && word != "fp32") return set_word(field, word, reading);
  }
  return unknown(word);
}

int64_t at_least_1(int64_t size) {
  return std::max<int64_t>(1, size);
}

Layout base_layout(const spec::JobSpec& job) {
  Layout layout;
  layout.zero_stage = job.parallel.zero_stage;
  layout.recompute = job.parallel.recompute;
  layout.schedule =
      job.parallel.pipeline_schedule == "auto" ? "1f1b" : job.parallel.pipeline_schedule;
  layout.micro_batch = at_least_1(job.training.micro_batch_size);
  layout.moments_dtype = job.training.moments_dtype;
  layout.grads_dtype = job.training.grads_dtype;
  layout.grad_accumulation = 0;
  layout.dp = 0;
  return layout;
}

// "EP8 DP4".
std::string axes_text(const Layout& layout) {
  std::string text;
  for (const auto& [name, size] :
       {std::pair("TP", layout.tp), std::pair("CP", layout.cp), std::pair("PP", layout.pp),
        std::pair("EP", layout.ep), std::pair("DP", layout.dp)}) {
    if (size > 1) text += fmt::format("{}{}{}", text.empty() ? "" : " ", name, size);
  }
  return text.empty() ? "a layout of one rank" : text;
}

// DP, which is 0 where it was left out; and whether the axes make `world` ranks.
Status settle_ranks(int64_t world, Layout* layout) {
  int64_t product = 1;
  for (const int64_t size :
       {layout->tp, layout->cp, layout->pp, layout->ep, at_least_1(layout->dp)}) {
    if (size > kRanksMax / product)
      return Status(Code::kInvalid,
                    fmt::format("{} makes more than {} ranks", axes_text(*layout), kRanksMax));
    product *= size;
  }
  if (layout->dp > 0 && world > 0 && product != world)
    return Status(Code::kInvalid,
                  fmt::format("{} makes {} rank{}, there are {}", axes_text(*layout), product,
                              product == 1 ? "" : "s", world),
                  "leave DP out: it is what the other sizes leave");
  if (layout->dp > 0) return {};
  if (world > 0 && world % product != 0)
    return Status(Code::kInvalid,
                  fmt::format("TP {} x CP {} x PP {} x EP {} = {} does not divide {} ranks",
                              layout->tp, layout->cp, layout->pp, layout->ep, product, world),
                  "change a size");
  layout->dp = world > 0 ? world / product : 1;
  return {};
}

// The micro-batches of a step, 0 where they were left out; where a given number is not the one that
// makes the batch, kInvalid. A batch that does not divide is check_layout()'s.
Status settle_batch(int64_t batch, Layout* layout) {
  const int64_t share = layout->micro_batch * layout->dense_dp();
  if (layout->grad_accumulation == 0) {
    layout->grad_accumulation = batch > 0 ? at_least_1(batch / share) : layout->pp;
    return {};
  }
  const bool agrees = batch > 0 ? batch % share == 0 && batch / share == layout->grad_accumulation
                                : share <= kRanksMax / layout->grad_accumulation;
  if (agrees) return {};
  const std::string given =
      fmt::format("micro-batch {} x EP·DP {} x accumulation {}", layout->micro_batch,
                  layout->dense_dp(), layout->grad_accumulation);
  if (batch == 0)
    return Status(Code::kInvalid, fmt::format("{} is more than {} sequences", given, kRanksMax));
  return Status(Code::kInvalid, fmt::format("{} is not global_batch_size {}", given, batch),
                "leave the accumulation out: it follows");
}

// What the text left out.
Status settle(const spec::JobSpec& job, int64_t world, Layout* layout) {
  DSV3_RETURN_IF_ERROR(settle_ranks(world, layout));
  return settle_batch(job.training.global_batch_size, layout);
}

ComparedLayout side_of(const MemoryModel& model, const DeviceModel* device,
                       int64_t rank_memory_bytes, const Layout& layout) {
  ComparedLayout side;
  side.layout = layout;
  side.fault = check_layout(model.job, layout, model.devices_per_node);
  if (!side.fault.empty()) return side;
  side.worst_stage = worst_stage(model, layout);
  side.ledger = memory_ledger(model, layout, side.worst_stage);
  side.peak_bytes = sum_bytes(side.ledger);
  side.fits =
      static_cast<double>(side.peak_bytes) <= kFitShare * static_cast<double>(rank_memory_bytes);
  if (device == nullptr) return side;
  const StepTime time = TimeModel(model.job, *device, model.devices_per_node).predict(layout);
  side.step_s = time.step_s;
  side.time = time.lines;
  if (time.step_s > 0)
    side.tokens_per_s = static_cast<double>(sequences_per_step(layout)) *
                        static_cast<double>(model.job.training.seq_length) / time.step_s;
  return side;
}

std::vector<LayoutDifference> differences_of(const Layout& left, const Layout& right) {
  std::vector<LayoutDifference> differences;
  const auto add = [&](const char* name, const std::string& a, const std::string& b) {
    if (a != b) differences.push_back({name, a, b});
  };
  for (const SizeField& size : kSizes)
    add(size.name, std::to_string(left.*size.field), std::to_string(right.*size.field));
  for (const WordField& field : word_fields())
    add(field.name, left.*field.field, right.*field.field);
  add("offload_optimizer", left.offload_optimizer ? "true" : "false",
      right.offload_optimizer ? "true" : "false");
  const auto stages = [](const Layout& layout) {
    return fmt::format("{}", fmt::join(layout.pipeline_layers, "/"));
  };
  add("stages", stages(left), stages(right));
  return differences;
}

// "the first is 12.0 % faster": by time per sequence, and per device where one has more of them.
std::string speed_verdict(const char* device, const ComparedLayout& left,
                          const ComparedLayout& right) {
  const int64_t ranks = left.layout.world_size(), others = right.layout.world_size();
  double faster = *left.tokens_per_s / *right.tokens_per_s;
  std::string text = "the first is";
  if (ranks != others) {
    faster *= static_cast<double>(others) / static_cast<double>(ranks);
    text =
        fmt::format("with {} and {} ranks, compared per {}, the first is", ranks, others, device);
  }
  faster -= 1;
  return fmt::format("{} {:.1f} % {}", text, 100 * std::abs(faster),
                     faster < 0 ? "slower" : "faster");
}

// "the first is 12.0 % faster, and takes 3.2 GiB more a rank".
std::string verdict_of(const char* device, const ComparedLayout& left,
                       const ComparedLayout& right) {
  for (const auto& [side, name] : {std::pair(&left, "first"), std::pair(&right, "second")}) {
    if (!side->fault.empty()) return fmt::format("the {} is not valid: {}", name, side->fault);
  }
  const int64_t more = left.peak_bytes - right.peak_bytes;
  const std::string memory = more == 0
                                 ? "takes as much memory"
                                 : fmt::format("takes {} {} a rank", human_bytes(std::abs(more)),
                                               more < 0 ? "less" : "more");
  std::string text = "the first " + memory;
  if (left.tokens_per_s && right.tokens_per_s)
    text = speed_verdict(device, left, right) + ", and " + memory;
  if (left.fits && right.fits) return text;
  if (!left.fits && !right.fits) return text + "; neither fits";
  return text + fmt::format("; only the {} fits", left.fits ? "first" : "second");
}

}  // namespace

Result<Layout> parse_layout(const std::string& text, const spec::JobSpec& job, int64_t world) {
  const std::vector<std::string> words = words_of(text);
  if (words.empty())
    return Status(Code::kInvalid, "the layout is empty",
                  "write one like 'TP2 PP4 EP8 DP1 ZeRO-1 recompute selective'");
  Reading reading{.layout = base_layout(job), .given = {}};
  for (size_t i = 0; i < words.size(); ++i) DSV3_RETURN_IF_ERROR(take_word(words, &i, &reading));
  DSV3_RETURN_IF_ERROR(settle(job, world, &reading.layout));
  return reading.layout;
}

Comparison compare(const MemoryModel& model, const DeviceModel* device, int64_t rank_memory_bytes,
                   const Layout& left, const Layout& right) {
  Comparison comparison;
  comparison.left = side_of(model, device, rank_memory_bytes, left);
  comparison.right = side_of(model, device, rank_memory_bytes, right);
  comparison.differences = differences_of(left, right);
  comparison.verdict = verdict_of(model.device == DeviceKind::kCuda ? "GPU" : "rank",
                                  comparison.left, comparison.right);
  return comparison;
}

}  // namespace dsv3::plan
