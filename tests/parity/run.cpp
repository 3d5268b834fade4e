// Ranks of a case; see run.h.
#include "tests/parity/run.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <fstream>
#include <span>
#include <type_traits>

#include "cluster/plan/shard_map.h"
#include "runtime/comm/cpu/rank_groups.h"
#include "runtime/train/step.h"
#include "tests/unit/runtime/comm/ranks.h"

namespace dsv3::parity {
namespace {

// One element of one gradient, by its place in the whole tensor.
struct Element {
  int32_t tensor = 0;
  int32_t index = 0;
  float value = 0;
};

struct RankReport {
  std::vector<StepNumbers> steps;
  std::vector<int64_t> counts;
  std::vector<Element> gradients;
};

template <typename T>
void put(std::ofstream& file, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto size = static_cast<int64_t>(values.size());
  file.write(reinterpret_cast<const char*>(&size), sizeof(size));
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(T)));
}

template <typename T>
void take(std::ifstream& file, std::vector<T>* values) {
  int64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), sizeof(size));
  values->resize(file ? static_cast<size_t>(size) : 0);
  file.read(reinterpret_cast<char*>(values->data()),
            static_cast<std::streamsize>(values->size() * sizeof(T)));
}

std::string report_path(const std::string& folder, int rank) {
  return fmt::format("{}/rank-{}", folder, rank);
}

void write_report(const std::string& path, const RankReport& report) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  put(file, report.steps);
  put(file, report.counts);
  put(file, report.gradients);
  comm::expect(file.good(), "cannot write " + path);
}

RankReport read_report(const std::string& path) {
  RankReport report;
  std::ifstream file(path, std::ios::binary);
  take(file, &report.steps);
  take(file, &report.counts);
  take(file, &report.gradients);
  return report;
}

// Gradients at [begin, begin + out.size()) of the parameters: under ZeRO 2 the sums lie apart, in
// the order of what this rank updates.
void read_gradients(train::Session& session, int64_t begin, std::span<float> out) {
  model::ParamStore& params = session.model->params();
  if (params.grad_sums().empty()) return params.read(params.grad(), begin, out);
  const int64_t end = begin + static_cast<int64_t>(out.size());
  int64_t at = 0, read = 0;  // in the sums, and elements of `out`
  for (const parallel::Range& range : session.gradient_sync->ownership().updated) {
    const int64_t from = std::max(begin, range.begin), to = std::min(end, range.end);
    if (from < to) {
      const auto part =
          out.subspan(static_cast<size_t>(from - begin), static_cast<size_t>(to - from));
      params.read(params.grad_sums(), at + from - range.begin, part);
      read += to - from;
    }
    at += range.end - range.begin;
  }
  comm::expect(read == end - begin, "a rank stands for gradients that it doesn't have");
}

// The gradients that this rank stands for.
std::vector<Element> represented_gradients(train::Session& session) {
  const model::ParamLayout& layout = session.model->params().layout();
  std::vector<parallel::Range> ranges = {{0, layout.elements}};
  if (session.gradient_sync) ranges = session.gradient_sync->ownership().represented;
  const std::vector<spec::TensorInfo> tensors = spec::model_tensors(session.spec.model);
  std::vector<Element> elements;
  std::vector<float> values;
  for (const model::ParamSlice& slice : layout.slices) {
    int32_t tensor = 0;
    while (tensors[static_cast<size_t>(tensor)].name != slice.info.name) ++tensor;
    const int64_t width = slice.info.shape.back();
    for (const parallel::Range& range : ranges) {
      const int64_t begin = std::max(range.begin, slice.offset);
      const int64_t end = std::min(range.end, slice.offset + slice.box.num_elements());
      if (begin >= end) continue;
      values.resize(static_cast<size_t>(end - begin));
      read_gradients(session, begin, values);
      for (int64_t at = begin; at < end; ++at) {
        const int64_t i = at - slice.offset;
        const int64_t whole =
            (slice.box.row + i / slice.box.cols) * width + slice.box.col + i % slice.box.cols;
        elements.push_back(
            {tensor, static_cast<int32_t>(whole), values[static_cast<size_t>(at - begin)]});
      }
    }
  }
  return elements;
}

RankReport train_steps(train::Session& session) {
  RankReport report;
  for (int64_t step = 1; step <= kSteps; ++step) {
    const Result<train::StepReport> done = train::run_step(session);
    comm::expect(done.ok(), done.status().to_string());
    report.steps.push_back(
        {done->loss, done->lm_loss, done->mtp_loss, done->aux_loss, done->z_loss, done->grad_norm});
    if (step > 1) continue;
    report.gradients = represented_gradients(session);
    for (int64_t layer = 0; layer < session.model->num_moe_layers(); ++layer) {
      const auto counts = session.model->step().host_counts(layer);
      report.counts.insert(report.counts.end(), counts.begin(), counts.end());
    }
  }
  return report;
}

// Puts one rank's elements where they belong; "" or the first that is wrong.
std::string place(const std::vector<spec::TensorInfo>& tensors, const RankReport& report, int rank,
                  std::vector<std::vector<bool>>* seen, Outcome* outcome) {
  for (const Element& e : report.gradients) {
    const auto tensor = static_cast<size_t>(e.tensor), index = static_cast<size_t>(e.index);
    if (index >= (*seen)[tensor].size()) {
      return fmt::format("rank {} has an element {} of {}", rank, e.index, tensors[tensor].name);
    }
    if ((*seen)[tensor][index]) {
      return fmt::format("element {} of {} comes from rank {} and from one before it", e.index,
                         tensors[tensor].name, rank);
    }
    (*seen)[tensor][index] = true;
    outcome->gradients[tensor][index] = e.value;
  }
  return "";
}

Outcome assemble(const Case& c, const std::string& folder) {
  Outcome outcome;
  const auto tensors = spec::model_tensors(parity_job(c, "").model);
  std::vector<std::vector<bool>> seen;
  for (const spec::TensorInfo& tensor : tensors) {
    seen.emplace_back(static_cast<size_t>(tensor.num_elements()));
    outcome.gradients.emplace_back(seen.back().size());
  }
  for (int rank = 0; rank < c.layout.world_size(); ++rank) {
    const RankReport report = read_report(report_path(folder, rank));
    if (rank == 0) {
      outcome.steps = report.steps;
      outcome.counts = report.counts;
    } else if (report.steps != outcome.steps || report.counts != outcome.counts) {
      outcome.fault = fmt::format("rank {} reports other losses or counts than rank 0", rank);
      return outcome;
    }
    outcome.fault = place(tensors, report, rank, &seen, &outcome);
    if (!outcome.fault.empty()) return outcome;
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    for (size_t i = 0; i < seen[t].size(); ++i) {
      if (!seen[t][i]) {
        outcome.fault = fmt::format("element {} of {} comes from no rank", i, tensors[t].name);
        return outcome;
      }
    }
  }
  return outcome;
}

// Why the run failed: of what the ranks say, what isn't said about another one.
std::string fault_of(const std::vector<comm::RankResult>& results) {
  std::string fault;
  for (size_t rank = 0; rank < results.size(); ++rank) {
    const comm::RankResult& r = results[rank];
    if (!r.failed) continue;
    const std::string line = r.signal != 0
                                 ? fmt::format("rank {}: ended by signal {}", rank, r.signal)
                                 : fmt::format("rank {}: {}", rank, r.text);
    const bool about_another =
        line.find("peer_lost") != std::string::npos || line.find("reports: ") != std::string::npos;
    if (fault.empty() || !about_another) fault = line;
    if (!about_another) break;
  }
  return fault;
}

}  // namespace

Peers::Peers() = default;
Peers::~Peers() = default;

std::unique_ptr<Peers> meet(const plan::Layout& layout, const spec::ModelSpec& model,
                            const std::string& rendezvous, int rank) {
  ::omp_set_num_threads(1);  // ranks that share cores have one each
  auto peers = std::make_unique<Peers>();
  peers->groups.layout = layout;
  const auto world = static_cast<int>(layout.world_size());
  if (world == 1) return peers;
  peers->mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
  peers->owned = std::make_unique<comm::RankGroups>(*peers->mesh, layout,
                                                    plan::copies_embedding(model, layout));
  peers->groups = peers->owned->groups();
  return peers;
}

std::unique_ptr<train::Session> skewed_session(const spec::JobSpec& job,
                                               const comm::Groups& groups) {
  auto opened = train::open_session(job, &groups);
  comm::expect(opened.ok(), opened.status().to_string());
  std::unique_ptr<train::Session> session = std::move(opened).value();
  session->model->params().initialise(job.training.seed);
  if (job.model.moe.num_experts_per_token == job.model.moe.num_experts) return session;
  const tensor::Tensor& bias = session->model->router_bias();  // [moe layers, experts] f32
  const int64_t experts = job.model.moe.num_experts;
  for (int64_t layer = 0; layer < session->model->num_moe_layers(); ++layer) {
    float* row = bias.as<float>() + layer * experts;
    for (const int64_t expert : kStarvedExperts) row[expert] = -10;
    row[0] = 0.05f;
  }
  return session;
}

Outcome run_case(const Case& c, const std::string& folder) {
  const std::string rendezvous = comm::unique_rendezvous();
  const auto world = static_cast<int>(c.layout.world_size());
  const auto results = comm::run_ranks(world, [&](int rank) -> std::string {
    const std::unique_ptr<Peers> peers = meet(c, rendezvous, rank);
    try {
      const auto session = skewed_session(parity_job(c, folder + "/data"), peers->groups);
      write_report(report_path(folder, rank), train_steps(*session));
    } catch (const std::exception& fault) {
      if (peers->mesh) peers->mesh->abort(fault.what());
      throw;
    }
    return "";
  });
  if (std::string fault = fault_of(results); !fault.empty()) return {.fault = fault};
  return assemble(c, folder);
}

}  // namespace dsv3::parity
