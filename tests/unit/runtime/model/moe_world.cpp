// The cut block and its oracle; see moe_world.h.
#include "tests/unit/runtime/model/moe_world.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "tests/unit/runtime/comm/ranks.h"

namespace dsv3::model {
namespace {

constexpr const char* kPrefix = "model.layers.1.mlp";

spec::ModelSpec model_of(const MoeCase& c) {
  spec::ModelSpec model = testing_support::tiny_job().model;
  model.num_layers = 2;
  model.mtp_layers = 0;
  model.vocab_size = 64;
  model.num_heads = 4;
  model.d_model = kWidth;
  model.init_std = 0.3;
  model.moe.num_shared_experts = c.shared ? 1 : 0;
  model.moe.capacity_factor = c.capacity;
  return model;
}

// This rank's tokens: its share of the sequences, of each the positions that CP and TP leave it.
std::vector<int64_t> tokens_of(const comm::Groups& groups) {
  const plan::Layout& cut = groups.layout;
  const std::vector<int64_t> positions =
      token_positions(kSequence, cut.cp, groups.position.cp_rank);
  const int64_t share = kSequences / groups.data_ranks();
  const int64_t each = kSequence / (cut.cp * cut.tp);
  std::vector<int64_t> tokens;
  for (int64_t s = groups.data_rank() * share; s < (groups.data_rank() + 1) * share; ++s) {
    for (int64_t i = 0; i < each; ++i) {
      const int64_t j = groups.position.tp_rank * each + i;
      tokens.push_back(s * kSequence + positions[static_cast<size_t>(j)]);
    }
  }
  return tokens;
}

}  // namespace

MoeRun::MoeRun(const MoeCase& c, const comm::Groups& groups)
    : case_(c),
      groups_(groups),
      model_(model_of(c)),
      device_(testing_support::cpu_device()),
      arena_(*device_),
      params_(model_, arena_,
              {.compute = c.compute, .cut = groups.layout, .position = groups.position}),
      step_(arena_, 1, model_.moe.num_experts),
      bias_(arena_.persistent("bias", DType::kF32, {model_.moe.num_experts})),
      block_(model_, params_, kPrefix, bias_.vector<float>()),
      rows_(tokens_of(groups)) {
  params_.initialise(7);
  for (int e = 0; e < 2 && c.skewed; ++e) bias_.as<float>()[e] = 10.0f;
}

Pass MoeRun::pass() {
  return {.arena = arena_,
          .ctx = arena_.context(),
          .act = case_.compute,
          .sequences = kSequences / groups_.data_ranks(),
          .sequence = kSequence,
          .training = case_.training,
          .scales = {.token = 1, .aux = 0.3f / kSequences, .z = 0.05f / kSequences / kSequence},
          .groups = &groups_,
          .recompute = case_.recompute,
          .overlap_experts = case_.overlap};
}

// [tokens, width]: every token has its values whoever holds it.
tensor::Tensor MoeRun::filled(const char* name, uint64_t salt) {
  const tensor::Tensor values = arena_.push(name, DType::kF32, {num_tokens(), kWidth});
  const CounterRng rng(salt, 11);
  for (int64_t r = 0; r < num_tokens(); ++r) {
    const auto first = static_cast<uint64_t>(rows_[static_cast<size_t>(r)] * kWidth);
    for (int64_t i = 0; i < kWidth; ++i)
      values.as<float>()[r * kWidth + i] = rng.normal(first + static_cast<uint64_t>(i));
  }
  if (case_.compute == DType::kF32) return values;
  const tensor::Tensor act = arena_.push(name, case_.compute, {num_tokens(), kWidth});
  ops::cast(arena_.context(), {.x = values, .y = act});
  return act;
}

std::vector<float> MoeRun::to_floats(const tensor::Tensor& t) const {
  std::vector<float> values(static_cast<size_t>(t.num_elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = t.dtype == DType::kF32 ? t.as<float>()[i] : static_cast<float>(t.as<Bf16>()[i]);
  }
  return values;
}

void MoeRun::run(bool again) {
  step_.reset();
  params_.zero_grad();
  const tensor::Scope scope(arena_);
  const tensor::Tensor x = filled("x", 1), y = filled("y", 2), dy = filled("dy", 3),
                       dx = filled("dx", 4);
  Pass once = pass();
  if (again) {
    const tensor::Scope first(arena_);
    const tensor::Tensor lost = filled("lost", 2);
    block_.forward(once, step_, 0, x, lost, stash_);
    once.again = true;
  }
  block_.forward(once, step_, 0, x, y, stash_);
  y_ = to_floats(y);
  if (case_.training) {
    MoeGrad grad;
    block_.backward_input(once, stash_, dy, dx, grad);
    block_.backward_weight(once, stash_, x, dy, grad);
    dx_ = to_floats(dx);
  }
  step_.read_back();
}

std::vector<float> MoeRun::gradients_in(const ParamLayout& whole) {
  std::vector<float> all(static_cast<size_t>(whole.elements));
  for (const ParamSlice& slice : params_.layout().slices) {
    const auto same = std::find_if(whole.slices.begin(), whole.slices.end(),
                                   [&](const auto& s) { return s.info.name == slice.info.name; });
    const plan::Box& box = slice.box;
    for (int64_t i = 0; i < box.num_elements(); ++i) {
      const int64_t row = box.row + i / box.cols, col = box.col + i % box.cols;
      all[static_cast<size_t>(same->offset + row * same->box.cols + col)] +=
          params_.grad().as<float>()[slice.offset + i];
    }
  }
  return all;
}

MoeTraffic expected_traffic(const MoeRun& mine, MoeRun& whole) {
  const plan::Layout& cut = mine.groups().layout;
  const plan::RankPosition& here = mine.groups().position;
  const plan::RankGrid grid(cut);
  const bool strips = cut.etp > 1;
  const int64_t members = cut.ep * (strips ? 1 : cut.tp), experts = 8, top_k = 2;
  // rows[r]: those that rank r of the world receives; to and from: between other ranks and me.
  std::vector<int64_t> rows(static_cast<size_t>(cut.world_size()));
  int64_t to_others = 0, from_others = 0;
  for (int64_t rank = 0; rank < cut.world_size(); ++rank) {
    const plan::RankPosition source = grid.position(rank);
    comm::Groups groups;
    groups.layout = cut;
    groups.position = source;
    for (const int64_t token : tokens_of(groups)) {
      for (int64_t k = 0; k < top_k; ++k) {
        const int64_t slot = token * top_k + k;
        if (whole.stash().row_of_slot.as<int32_t>()[slot] < 0) continue;
        const int64_t owner = whole.stash().expert_idx.as<int32_t>()[slot] / (experts / members);
        plan::RankPosition to = source;
        to.ep_rank = strips ? owner : owner / cut.tp;
        if (!strips) to.tp_rank = owner % cut.tp;
        ++rows[static_cast<size_t>(grid.global_rank(to))];
        to_others += source == here && !(to == here);
        from_others += to == here && !(source == here);
      }
    }
  }
  MoeTraffic bytes;
  const int64_t row = kWidth * 4;
  bytes.experts = 4 * (experts - experts / members) + to_others * (row + 4) + from_others * row +
                  to_others * row + from_others * (row + 4);
  if (strips) {
    int64_t others = 0;
    for (int64_t tp = 0; tp < cut.tp; ++tp) {
      plan::RankPosition p = here;
      p.tp_rank = tp;
      others += tp == here.tp_rank ? 0 : rows[static_cast<size_t>(grid.global_rank(p))];
    }
    const int64_t own = rows[static_cast<size_t>(grid.global_rank(here))];
    bytes.tensor = (cut.tp - 1) * (4 * experts + own * (row + 4)) + others * row +
                   (cut.tp - 1) * own * row + others * (row + 4);
  }
  return bytes;
}

void with_ranks(const plan::Layout& layout, const std::function<void(const comm::Groups&)>& body) {
  const auto world = static_cast<int>(layout.world_size());
  const std::string rendezvous = comm::unique_rendezvous();
  comm::all_ranks(world, [&](int rank) {
    omp_set_num_threads(1);
    auto mesh = comm::connect_or_throw(comm::options_for(rendezvous, rank, world));
    const comm::RankGroups groups(*mesh, layout, false);
    body(groups.groups());
  });
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b, float tolerance,
                 const std::string& what) {
  comm::expect(a.size() == b.size(), what + ": sizes differ");
  float largest = 0, worst = 0;
  for (const float v : b) largest = std::max(largest, std::fabs(v));
  for (size_t i = 0; i < a.size(); ++i) {
    const float difference = std::fabs(a[i] - b[i]);
    worst = difference <= worst ? worst : difference;  // NaN too
  }
  comm::expect(largest > 0, what + ": all zero");
  comm::expect(worst <= tolerance * largest,
               what + ": off by " + std::to_string(worst / largest) + " of the largest");
}

std::vector<float> rows_of(const std::vector<float>& whole, const MoeRun& mine) {
  std::vector<float> rows;
  for (const int64_t token : mine.rows())
    rows.insert(rows.end(), whole.begin() + token * kWidth, whole.begin() + (token + 1) * kWidth);
  return rows;
}

}  // namespace dsv3::model
