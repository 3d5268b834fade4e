// The router: scores, group-limited top-k, its losses and their gradients, and the balancing bias
// (DeepSeek-V2 §2.1, V3 §2.1.2); contract in kernels/ops/args.h.
//
// Laws: the choice is made on biased scores, the weights come from unbiased ones; expert_idx always
// holds distinct experts of kept groups, also when logits are NaN (a NaN loses every comparison).
// Counts are exact integers. The losses are summed over fixed chunks of tokens, so they do not
// depend on the number of threads.
//
//   T tokens    E experts    K experts per token    G groups
#include <cmath>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vec.h"

namespace dsv3::cpu {
namespace {

constexpr int64_t kChunk = 64;  // tokens per partial sum of the losses
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

void score_row(ops::ScoreFunction function, const float* logits, float* scores, int64_t experts) {
  if (function == ops::ScoreFunction::kSigmoid) {
#pragma omp simd
    for (int64_t e = 0; e < experts; ++e) scores[e] = sigmoid_f32(logits[e]);
    return;
  }
  const float largest = max_of(logits, experts);
  const float inverse_sum =
      static_cast<float>(1.0 / sum_exp<true>(logits, experts, largest, scores));
#pragma omp simd
  for (int64_t e = 0; e < experts; ++e) scores[e] *= inverse_sum;
}

// What experts of one token are compared by: score + bias, −∞ for NaN.
struct Biased {
  const float* scores;
  const float* bias;  // null: none
  float operator()(int64_t expert) const {
    const float value = bias ? scores[expert] + bias[expert] : scores[expert];
    return value == value ? value : kMinusInfinity;
  }
};

// Sum of the group's `best` largest biased scores (best is 1 or 2).
float group_score(const Biased& biased, int64_t begin, int64_t count, int best) {
  float first = kMinusInfinity, second = kMinusInfinity;
  for (int64_t e = begin; e < begin + count; ++e) {
    const float value = biased(e);
    if (value > first) {
      second = first;
      first = value;
    } else if (value > second) {
      second = value;
    }
  }
  return best == 2 && count > 1 ? first + second : first;
}

// True when fewer than `top` groups beat this one; ties go to the lower index.
bool group_is_kept(const float* group_scores, int64_t groups, int64_t group, int64_t top) {
  int64_t better = 0;
  for (int64_t g = 0; g < groups; ++g) {
    better += group_scores[g] > group_scores[group] ||
              (group_scores[g] == group_scores[group] && g < group);
  }
  return better < top;
}

// Inserts the experts [begin, begin + count) into chosen[0, filled), kept in descending order of
// the biased score. Experts come in ascending index, so a strict comparison gives ties to the lower
// one. Returns the new `filled` ≤ top_k.
int64_t insert_experts(const Biased& biased, int64_t begin, int64_t count, int32_t* chosen,
                       int64_t filled, int64_t top_k) {
  for (int64_t e = begin; e < begin + count; ++e) {
    const float value = biased(e);
    if (filled == top_k && !(value > biased(chosen[top_k - 1]))) continue;
    int64_t place = filled < top_k ? filled++ : top_k - 1;
    for (; place > 0 && value > biased(chosen[place - 1]); --place)
      chosen[place] = chosen[place - 1];
    chosen[place] = static_cast<int32_t>(e);
  }
  return filled;
}

void choose_row(const ops::RouterShape& shape, const Biased& biased, float* group_scores,
                int32_t* chosen) {
  const int64_t per_group = shape.experts / shape.groups;
  const int best = shape.score == ops::ScoreFunction::kSigmoid ? 2 : 1;
  const bool all_kept = shape.top_groups == shape.groups;
  for (int64_t g = 0; g < shape.groups && !all_kept; ++g) {
    group_scores[g] = group_score(biased, g * per_group, per_group, best);
  }
  int64_t filled = 0;
  for (int64_t g = 0; g < shape.groups; ++g) {
    if (!all_kept && !group_is_kept(group_scores, shape.groups, g, shape.top_groups)) continue;
    filled = insert_experts(biased, g * per_group, per_group, chosen, filled, shape.top_k);
  }
}

// What the chosen scores are divided by before scaling.
float weight_divisor(const ops::RouterShape& shape, const float* scores, const int32_t* chosen) {
  if (!shape.normalise) return 1.0f;
  float sum = 0.0f;
  for (int64_t k = 0; k < shape.top_k; ++k) sum += scores[chosen[k]];
  return sum + 1e-20f;
}

float log_sum_exp(const float* logits, int64_t experts) {
  const float largest = max_of(logits, experts);
  return largest + static_cast<float>(std::log(sum_exp(logits, experts, largest)));
}

float sum_of(const float* x, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

float dot(const float* x, const float* y, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// f_i of every sequence: E / (K · sequence) times the tokens of it that chose expert i, whether
// they are counted here or were told.
void write_fractions(const ops::RouterLoss& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t slots = shape.sequence * shape.top_k;  // per sequence
  const float unit =
      static_cast<float>(shape.experts) / static_cast<float>(shape.loss_sequence() * shape.top_k);
#pragma omp parallel for schedule(static) if (shape.tokens * shape.top_k > kParallelMin)
  for (int64_t s = 0; s < shape.tokens / shape.sequence; ++s) {
    float* fraction = args.fraction.data + s * shape.experts;
    if (!args.sequence_counts.empty()) {
      const int32_t* counts = args.sequence_counts.data + s * shape.experts;
      for (int64_t e = 0; e < shape.experts; ++e) fraction[e] = static_cast<float>(counts[e]);
    } else {
      std::fill_n(fraction, shape.experts, 0.0f);
      for (int64_t i = 0; i < slots; ++i)
        fraction[args.expert_idx.data[s * slots + i]] += 1.0f;  // exact below 2^24
    }
    for (int64_t e = 0; e < shape.experts; ++e) fraction[e] *= unit;
  }
}

// dscores = the gradient that reaches the scores of one token: through its chosen weights and
// through the auxiliary loss.
void score_gradient(const ops::RouterBackward& args, int64_t token, float* dscores) {
  const ops::RouterShape& shape = args.shape;
  const float* scores = args.scores.data + token * shape.experts;
  const int32_t* chosen = args.expert_idx.data + token * shape.top_k;
  const float* dweights = args.dweights.data + token * shape.top_k;
  if (args.aux_weight != 0.0f) {
    // Σ_i f_i p_i with p_i = s_i / R: d/ds_i = (f_i − Σ_j f_j p_j) / R.
    const float* fraction = args.fraction.data + token / shape.sequence * shape.experts;
    const float inverse_sum = 1.0f / sum_of(scores, shape.experts);
    const float mean = dot(fraction, scores, shape.experts) * inverse_sum;
    const float factor = args.aux_weight / static_cast<float>(shape.loss_sequence()) * inverse_sum;
#pragma omp simd
    for (int64_t e = 0; e < shape.experts; ++e) dscores[e] = factor * (fraction[e] - mean);
  } else {
    std::fill_n(dscores, shape.experts, 0.0f);
  }
  // w_k = scaling · s_k / N, N = Σ_j s_j + 1e-20: ds_k = scaling / N · (dw_k − Σ_j dw_j s_j / N).
  // Without normalisation N = 1.
  const float inverse_norm = 1.0f / weight_divisor(shape, scores, chosen);
  float mean = 0.0f;
  if (shape.normalise) {
    for (int64_t k = 0; k < shape.top_k; ++k)
      mean += dweights[k] * scores[chosen[k]] * inverse_norm;
  }
  for (int64_t k = 0; k < shape.top_k; ++k)
    dscores[chosen[k]] += shape.scaling * inverse_norm * (dweights[k] - mean);
}

}  // namespace

void router_forward(const ops::Context& ctx, const ops::RouterForward& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t experts = shape.experts, top_k = shape.top_k;
  if (shape.tokens == 0) return;
  float* scratch = reinterpret_cast<float*>(
      ctx.workspace->reserve(omp_get_max_threads() * shape.groups * sizeof(float)));
#pragma omp parallel for schedule(static) if (shape.tokens * experts > kParallelMin)
  for (int64_t t = 0; t < shape.tokens; ++t) {
    float* scores = args.scores.data + t * experts;
    int32_t* chosen = args.expert_idx.data + t * top_k;
    score_row(shape.score, args.logits.data + t * experts, scores, experts);
    choose_row(shape, Biased{scores, args.bias.data}, scratch + omp_get_thread_num() * shape.groups,
               chosen);
    const float factor = shape.scaling / weight_divisor(shape, scores, chosen);
    for (int64_t k = 0; k < top_k; ++k)
      args.weights.data[t * top_k + k] = scores[chosen[k]] * factor;
  }
  // One pass by one thread: a few nanoseconds a slot, against an [threads, E] scratch and its sum.
  for (int64_t i = 0; i < shape.tokens * top_k; ++i) ++args.counts.data[args.expert_idx.data[i]];
  if (args.run_counts.empty()) return;
  std::fill_n(args.run_counts.data, args.run_counts.size, 0);
  for (int64_t i = 0; i < shape.tokens * top_k; ++i) {
    ++args.run_counts.data[i / (args.run * top_k) * experts + args.expert_idx.data[i]];
  }
}

void router_loss(const ops::Context& ctx, const ops::RouterLoss& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t experts = shape.experts;
  const bool has_aux = !args.fraction.empty();
  if (shape.tokens == 0) return;
  if (has_aux) write_fractions(args);
  const int64_t chunks = ceil_div(shape.tokens, kChunk);
  double* partial = reinterpret_cast<double*>(ctx.workspace->reserve(2 * chunks * sizeof(double)));
#pragma omp parallel for schedule(static) if (shape.tokens * experts > kParallelMin)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    double aux = 0.0, z = 0.0;
    for (int64_t t = chunk * kChunk; t < std::min(shape.tokens, (chunk + 1) * kChunk); ++t) {
      const float* scores = args.scores.data + t * experts;
      if (has_aux && args.aux_weight != 0.0f) {
        const float* fraction = args.fraction.data + t / shape.sequence * experts;
        aux += static_cast<double>(dot(fraction, scores, experts)) / sum_of(scores, experts);
      }
      if (args.z_weight != 0.0f) {
        const double lse = log_sum_exp(args.logits.data + t * experts, experts);
        z += lse * lse;
      }
    }
    partial[2 * chunk] = aux;
    partial[2 * chunk + 1] = z;
  }
  double aux = 0.0, z = 0.0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    aux += partial[2 * chunk];
    z += partial[2 * chunk + 1];
  }
  if (args.aux_weight != 0.0f)
    *args.aux_loss += args.aux_weight * aux / static_cast<double>(shape.loss_sequence());
  if (args.z_weight != 0.0f) *args.z_loss += args.z_weight * z;
}

void router_backward(const ops::Context&, const ops::RouterBackward& args) {
  const ops::RouterShape& shape = args.shape;
  const int64_t experts = shape.experts;
#pragma omp parallel for schedule(static) if (shape.tokens * experts > kParallelMin)
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const float* scores = args.scores.data + t * experts;
    float* dlogits = args.dlogits.data + t * experts;
    score_gradient(args, t, dlogits);
    if (shape.score == ops::ScoreFunction::kSigmoid) {
#pragma omp simd
      for (int64_t e = 0; e < experts; ++e) dlogits[e] *= scores[e] * (1.0f - scores[e]);
    } else {
      const float mean = dot(dlogits, scores, experts);
#pragma omp simd
      for (int64_t e = 0; e < experts; ++e) dlogits[e] = scores[e] * (dlogits[e] - mean);
    }
    if (args.z_weight == 0.0f) continue;
    // d lse² / dlogit_i = 2 lse · softmax_i
    const float* logits = args.logits.data + t * experts;
    const float lse = log_sum_exp(logits, experts);
    const float factor = 2.0f * args.z_weight * lse;
#pragma omp simd
    for (int64_t e = 0; e < experts; ++e) dlogits[e] += factor * exp_f32(logits[e] - lse);
  }
}

void router_bias_update(const ops::Context&, const ops::RouterBiasUpdate& args) {
  int64_t total = 0;
  for (int64_t e = 0; e < args.counts.size; ++e) total += args.counts.data[e];
  for (int64_t e = 0; e < args.counts.size; ++e) {
    const int64_t below_mean = total - args.counts.size * args.counts.data[e];
    args.bias.data[e] += args.rate * static_cast<float>((below_mean > 0) - (below_mean < 0));
  }
}

}  // namespace dsv3::cpu
