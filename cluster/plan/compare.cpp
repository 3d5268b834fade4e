// Reading layouts and setting two side by side; see compare.h.
#include "cluster/plan/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "cluster/plan/search.h"

namespace dsv3::plan {
namespace {

struct SizeField {
  const char* name;        // of LAYOUT
  const char* short_name;  // as in "TP2"; "" for none
  const char* key;         // of a configuration
  int64_t Layout::*field;
};
constexpr SizeField kSizes[] = {
    {"tp", "tp", "tensor_parallel_size", &Layout::tp},
    {"cp", "cp", "context_parallel_size", &Layout::cp},
    {"pp", "pp", "pipeline_parallel_size", &Layout::pp},
    {"ep", "ep", "expert_parallel_size", &Layout::ep},
    {"dp", "dp", "data_parallel_size", &Layout::dp},
    {"etp", "etp", "expert_tensor_parallel_size", &Layout::etp},
    {"zero_stage", "zero", "zero", &Layout::zero_stage},
    {"micro_batch", "mbs", "micro_batch_size", &Layout::micro_batch},
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
  std::vector<std::string_view> known = {"offload_optimizer", "micro-batch", "one", "rank"};
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

Status set_size(const SizeField& size, const std::string& text, Layout* layout) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_zero_stage = size.field == &Layout::zero_stage;
  const int64_t least = is_zero_stage ? 0 : 1, most = is_zero_stage ? 3 : int64_t{1} << 24;
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    return Status(Code::kInvalid, fmt::format("{} takes a whole number from {} to {}, not '{}'",
                                              size.name, least, most, text));
  layout->*size.field = value;
  return {};
}

Status set_word(const WordField& field, const std::string& value, Layout* layout) {
  if (std::find(field.values.begin(), field.values.end(), value) == field.values.end())
    return Status(Code::kInvalid, fmt::format("{} can't be '{}'", field.name, value),
                  fmt::format("it is one of {}", fmt::join(field.values, ", ")));
  layout->*field.field = value;
  return {};
}

Status set_pair(const std::string& key, const std::string& value, Layout* layout) {
  for (const SizeField& size : kSizes) {
    if (key == size.name || key == size.short_name || key == size.key)
      return set_size(size, value, layout);
  }
  for (const WordField& field : word_fields()) {
    if (key == field.name || key == field.key) return set_word(field, value, layout);
  }
  if (key == "offload_optimizer" || key == "offload") {
    if (value != "true" && value != "false")
      return Status(Code::kInvalid, fmt::format("{} is true or false, not '{}'", key, value));
    layout->offload_optimizer = value == "true";
    return {};
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
Status take_word(const std::vector<std::string>& words, size_t* i, Layout* layout) {
  const std::string& word = words[*i];
  if (const size_t equals = word.find('='); equals != std::string::npos)
    return set_pair(word.substr(0, equals), word.substr(equals + 1), layout);
  const std::string next = *i + 1 < words.size() ? words[*i + 1] : "";
  if (word == "one" && next == "rank") return ++*i, Status();
  if (word == "offload" || word == "offload_optimizer" || word == "offloaded") {
    if (next == "optimizer") ++*i;
    layout->offload_optimizer = true;
    return {};
  }
  if ((word == "bf16" || word == "fp32") &&
      (next == "moments" || next == "grads" || next == "gradients")) {
    ++*i;
    (next == "moments" ? layout->moments_dtype : layout->grads_dtype) = word;
    return {};
  }
  if (word == "micro-batch" || word == "micro_batch")
    return ++*i, set_pair("micro_batch", next, layout);
  std::string number;
  for (const SizeField& size : kSizes) {
    if (is_sized(word, size, &number)) return set_size(size, number, layout);
  }
  for (const WordField& field : word_fields()) {
    if (word == field.name || word == field.key) return ++*i, set_word(field, next, layout);
    // "selective" alone can only be one thing; the dtypes could be two.
    const bool own =
        std::find(field.values.begin(), field.values.end(), word) != field.values.end();
    if (own && word != "bf16" && word != "fp32") return set_word(field, word, layout);
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

// What the text left out: DP, and the micro-batches of a step.
Status settle(const spec::JobSpec& job, int64_t world, Layout* layout) {
  if (layout->dp == 0) {
    const int64_t others = layout->tp * layout->cp * layout->pp * layout->ep;
    if (world > 0 && world % others != 0)
      return Status(Code::kInvalid,
                    fmt::format("TP {} x CP {} x PP {} x EP {} = {} does not divide {} ranks",
                                layout->tp, layout->cp, layout->pp, layout->ep, others, world),
                    "change a size, or give DP and with it another number of ranks");
    layout->dp = world > 0 ? world / others : 1;
  }
  if (layout->grad_accumulation == 0) {
    const int64_t batch = job.training.global_batch_size;
    layout->grad_accumulation =
        batch > 0 ? at_least_1(batch / (layout->micro_batch * layout->dense_dp())) : layout->pp;
  }
  return {};
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
  const int64_t batch = model.job.training.global_batch_size;
  const int64_t sequences =
      batch > 0 ? batch : layout.micro_batch * layout.grad_accumulation * layout.dense_dp();
  if (time.step_s > 0)
    side.tokens_per_s =
        static_cast<double>(sequences * model.job.training.seq_length) / time.step_s;
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
  return differences;
}

// "the first is 12.0 % faster, and takes 3.2 GiB more a rank".
std::string verdict_of(const ComparedLayout& left, const ComparedLayout& right) {
  for (const auto& [side, name] : {std::pair(&left, "first"), std::pair(&right, "second")}) {
    if (!side->fault.empty()) return fmt::format("the {} is not valid: {}", name, side->fault);
  }
  const int64_t more = left.peak_bytes - right.peak_bytes;
  const std::string memory = more == 0
                                 ? "takes as much memory"
                                 : fmt::format("takes {} {} a rank", human_bytes(std::abs(more)),
                                               more < 0 ? "less" : "more");
  std::string text = "the first " + memory;
  if (left.step_s && right.step_s && *left.step_s > 0) {
    const double faster = *right.step_s / *left.step_s - 1;
    text = fmt::format("the first is {:.1f} % {}, and {}", 100 * std::abs(faster),
                       faster < 0 ? "slower" : "faster", memory);
  }
  if (left.fits && right.fits) return text;
  if (!left.fits && !right.fits) return text + "; neither fits";
  return text + fmt::format("; only the {} fits", left.fits ? "first" : "second");
}

}  // namespace

Result<Layout> parse_layout(const std::string& text, const spec::JobSpec& job, int64_t world) {
  Layout layout = base_layout(job);
  const std::vector<std::string> words = words_of(text);
  if (words.empty())
    return Status(Code::kInvalid, "the layout is empty",
                  "write one like 'TP2 PP4 EP8 DP1 ZeRO-1 recompute selective'");
  for (size_t i = 0; i < words.size(); ++i) DSV3_RETURN_IF_ERROR(take_word(words, &i, &layout));
  DSV3_RETURN_IF_ERROR(settle(job, world, &layout));
  return layout;
}

Comparison compare(const MemoryModel& model, const DeviceModel* device, int64_t rank_memory_bytes,
                   const Layout& left, const Layout& right) {
  Comparison comparison;
  comparison.left = side_of(model, device, rank_memory_bytes, left);
  comparison.right = side_of(model, device, rank_memory_bytes, right);
  comparison.differences = differences_of(left, right);
  comparison.verdict = verdict_of(comparison.left, comparison.right);
  return comparison;
}

}  // namespace dsv3::plan
