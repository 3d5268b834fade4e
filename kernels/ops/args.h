// The op contracts: one struct of arguments per op, shared by every back end.
//
// Laws: an op does what its comment says, in this order of dims and these dtypes, on any back end;
// "+=" means accumulates,
// "=" means overwrites; an empty optional argument means that this part of the work is left out, so
// that input and weight gradients can run apart. "act" is the activation dtype, f32 or bf16, the
// same for all act tensors of one call; statistics, router values, gradients of weights and
// optimizer state are f32. Arithmetic accumulates in f32 or better. Counts that only the device
// knows (rows per expert) are read from device memory.
//
//   T tokens = batch · sequence    D model width    H heads    E experts    K experts per token F
//   expert width    V vocabulary
#pragma once

#include <cstdint>

#include "kernels/ops/view.h"

namespace dsv3::ops {

// ---- matrix products (gemm.h)
// -------------------------------------------------------------------------------------

// c [m, n] = op(a) [m, k] · op(b) [k, n] + (accumulate ? c : 0). a and b: both f32 or both bf16; c:
// f32, or a's dtype. A linear layer y = x Wᵀ is {x, W transposed}; its input gradient {dy, W}; its
// weight gradient {dy transposed, x, f32 accumulate}.
struct Gemm {
  ConstMatrix a;
  ConstMatrix b;
  Matrix c;
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
};

// For each group g, rows r in [offsets[g], offsets[g+1]): c[r, :] = a[r, :] · op(b_g) (+ c). Groups
// may be empty. b [G, n, k] when transpose_b (forward), [G, k, n] otherwise (input gradient). Rows
// from offsets[G] on are not written.
struct GroupedGemm {
  ConstMatrix a;                  // [rows, k] act
  ConstStack b;                   // act
  Matrix c;                       // [rows, n] act or f32
  Vector<const int32_t> offsets;  // [G + 1], device
  bool transpose_b = false;
  bool accumulate = false;
};

// For each group g: c_g [m, n] (+)= a[rows of g, :]ᵀ [m, rows] · b[rows of g, :] [rows, n]. A group
// without rows adds nothing (and is zeroed when not accumulating).
struct GroupedGemmWeightGrad {
  ConstMatrix a;                  // [rows, m] act: dy
  ConstMatrix b;                  // [rows, n] act: x
  Stack c;                        // [G, m, n] f32
  Vector<const int32_t> offsets;  // [G + 1], device
  bool accumulate = true;
};

// ---- normalisation and positions
// ----------------------------------------------------------------------------------

// y = x · rstd · gain, rstd = 1 / sqrt(mean(x²) + eps), per row (Zhang & Sennrich 2019).
struct RmsNormForward {
  ConstMatrix x;             // [T, D] act; strided rows allowed
  Vector<const float> gain;  // [D]
  Matrix y;                  // [T, D] act; strided rows allowed
  Vector<float> rstd;        // [T]
  float eps = 1e-6f;
};
// dx (+)= rstd · (dy·gain − x̂ · mean(dy·gain·x̂)) with x̂ = x·rstd;  dgain += Σ_rows dy · x̂.
struct RmsNormBackward {
  ConstMatrix dy;            // [T, D] act
  ConstMatrix x;             // [T, D] act
  Vector<const float> gain;  // [D]
  Vector<const float> rstd;  // [T]
  Matrix dx;                 // [T, D] act; optional
  Vector<float> dgain;       // [D] +=; optional
  bool accumulate_dx = false;
};

// Rotates pairs (2i, 2i+1) of x[t, h, :] by the angle of position t mod sequence (interleaved RoPE,
// in place): (a, b) → (a·cos − b·sin, a·sin + b·cos); transpose applies the transposed rotation
// (the backward).
struct Rope {
  void* x = nullptr;  // first rotated element of token 0, head 0; act
  DType dtype = DType::kF32;
  int64_t tokens = 0;
  int64_t heads = 1;
  int64_t token_stride = 0;  // elements
  int64_t head_stride = 0;   // elements
  int64_t rope_dim = 0;      // even; 0: nothing to do
  int64_t sequence = 0;      // tokens per sequence
  Vector<const float> cos;   // [sequence, rope_dim / 2], scaled by YaRN's attention factor
  Vector<const float> sin;   // [sequence, rope_dim / 2]
  bool transpose = false;
};

// ---- multi-head latent attention, causal
// -----------------------------------------------------------------------------

struct MlaShape {
  int64_t batch = 0;
  int64_t sequence = 0;
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t v_dim = 0;
  float scale = 1.0f;  // softmax scale > 0, YaRN's mscale² included
  // Of each sequence's positions only the last so many are queries; 0: all. Keys are all positions.
  // A context-parallel rank asks so for a part of a sequence, whose keys end where the part ends.
  int64_t queries = 0;
  int64_t num_queries() const { return queries == 0 ? sequence : queries; }
};
// out[t,h,:] = Σ_s softmax_s(scale · (q_nope·k_nope + q_rope·k_rope)) v[s,h,:] over s ≤ t of the
// same sequence. Never holds a [sequence, sequence] tensor: blocked with a running softmax (Dao
// 2022/2023). U = batch · queries: the rows of q, out, lse and their gradients.
struct MlaAttentionForward {
  MlaShape shape;
  ConstMatrix q;       // [U, H·(nope + rope)] act: per head nope, then rope (rotated)
  ConstMatrix kv;      // [T, H·(nope + v)] act: per head k_nope, then v (kv_b's output)
  ConstMatrix k_rope;  // [T, rope] act, rotated, shared by all heads
  Matrix out;          // [U, H·v] act
  Vector<float> lse;   // [U, H] log-sum-exp of the scaled scores
};
struct MlaAttentionBackward {
  MlaShape shape;
  ConstMatrix q, kv, k_rope, out;  // as in the forward
  Vector<const float> lse;         // [U, H]
  ConstMatrix dout;                // [U, H·v] act
  Matrix dq;                       // [U, H·(nope + rope)] act =
  Matrix dkv;                      // [T, H·(nope + v)] act =
  Matrix dk_rope;                  // [T, rope] act = summed over heads
};

// ---- feed-forward
// -------------------------------------------------------------------------------------------------------

// y = silu(gate) · up · row_scale. Rows from *num_rows on are not touched (num_rows: device
// pointer, null: all rows). The routing weight is applied here, before the down projection.
struct SwigluForward {
  ConstMatrix gate_up;            // [rows, 2F] act: gate, then up
  Vector<const float> row_scale;  // [rows]; optional
  Matrix y;                       // [rows, F] act
  const int32_t* num_rows = nullptr;
};
struct SwigluBackward {
  ConstMatrix dy;                 // [rows, F] act
  ConstMatrix gate_up;            // [rows, 2F] act
  Vector<const float> row_scale;  // [rows]; optional
  Matrix dgate_up;                // [rows, 2F] act =
  Vector<float> drow_scale;       // [rows] =; required with row_scale
  const int32_t* num_rows = nullptr;
};

// ---- router (DeepSeek-V2 §2.1, V3 §2.1.2)
// -----------------------------------------------------------------------------------

enum class ScoreFunction : uint8_t { kSigmoid = 0, kSoftmax = 1 };
struct RouterShape {
  int64_t tokens = 0;
  int64_t sequence = 0;  // tokens per sequence: the auxiliary loss is per sequence
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t groups = 1;
  int64_t top_groups = 1;
  ScoreFunction score = ScoreFunction::kSigmoid;
  bool normalise = true;  // weights / (sum + 1e-20)
  float scaling = 1.0f;   // times routed_scaling_factor
  // Tokens of a whole sequence, where `sequence` are the part of it that is here; 0: all are.
  int64_t whole_sequence = 0;
  int64_t loss_sequence() const { return whole_sequence > 0 ? whole_sequence : sequence; }
};
// scores = score(logits); biased = scores + bias; group score = sum of its two best biased
// (sigmoid) or its best (softmax); groups not kept are masked with −inf; top-k of biased, ties to
// the lower index; weights from the unbiased scores.
struct RouterForward {
  RouterShape shape;
  Vector<const float> logits;  // [T, E]
  Vector<const float> bias;    // [E]; optional
  Vector<float> scores;        // [T, E] = unbiased
  Vector<int32_t> expert_idx;  // [T, K] = in descending order of the biased score
  Vector<float> weights;       // [T, K] =
  Vector<int64_t> counts;      // [E] += exact tokens per expert
  int64_t run = 0;             // with run_counts: so many tokens are counted together
  Vector<int32_t> run_counts;  // [T / run, E] = choices of every run of tokens; optional
};
// aux_loss += aux_weight · Σ_sequences Σ_i f_i P_i; f_i = E / (K·S) · count_i over the whole
// sequence of S tokens, P_i = Σ_t scores_i / Σ_j scores_j / S over the tokens that are here: the
// shares of the ranks that hold parts of a sequence add up to its loss. z_loss += z_weight ·
// Σ_tokens logsumexp(logits)². The weights carry 1 / sequences and 1 / tokens of the global batch.
struct RouterLoss {
  RouterShape shape;
  Vector<const float> logits;        // [T, E]
  Vector<const float> scores;        // [T, E]
  Vector<const int32_t> expert_idx;  // [T, K]
  float aux_weight = 0.0f;
  float z_weight = 0.0f;
  Vector<float> fraction;      // [T / sequence, E] = f_i per sequence, kept for the backward
  double* aux_loss = nullptr;  // device scalar +=
  double* z_loss = nullptr;    // device scalar +=
  // [T / sequence, E] choices of the whole sequences; optional: those that are here are all.
  Vector<const int32_t> sequence_counts;
};
// dlogits = through the chosen weights, plus the gradients of both losses (f_i is a constant).
struct RouterBackward {
  RouterShape shape;
  Vector<const float> logits;        // [T, E]
  Vector<const float> scores;        // [T, E]
  Vector<const int32_t> expert_idx;  // [T, K]
  Vector<const float> dweights;      // [T, K]
  Vector<const float> fraction;      // [T / sequence, E]
  float aux_weight = 0.0f;
  float z_weight = 0.0f;
  Vector<float> dlogits;  // [T, E] =
};
// bias_i += rate · sign(mean(counts) − counts_i), decided in exact integers: sign(Σ counts − E ·
// counts_i).
struct RouterBiasUpdate {
  Vector<const int64_t> counts;  // [E] of the global batch
  Vector<float> bias;            // [E]
  float rate = 1e-3f;
};

// ---- moving tokens to their experts and back
// ----------------------------------------------------------------------------------

// Sorts the T·K (token, choice) slots by expert, stable: within an expert in token order. With a
// capacity an expert takes that many slots of a sequence, the first ones; the others are dropped:
// they get row −1, and rows from offsets[E] on don't exist.
struct RoutePlan {
  Vector<const int32_t> expert_idx;  // [T, K]
  int64_t top_k = 0;
  int64_t experts = 0;
  Vector<int32_t> offsets;      // [E + 1] = first row of each expert
  Vector<int32_t> row_of_slot;  // [T·K] = row of slot t·K + k
  Vector<int32_t> slot_of_row;  // [T·K] = its inverse
  int64_t capacity = 0;         // 0: nothing is dropped
  // With a capacity: `run` tokens at a time are consecutive tokens of one sequence, of which
  // `before` counts the choices at earlier positions.
  int64_t run = 0;
  Vector<const int32_t> before;  // [T / run, E]; optional: a run is a whole sequence
  double* dropped = nullptr;     // device scalar += dropped slots; optional
};
// y[r, :] = x[slot_of_row[r] / K, :] and, with weights, row_weight[r] = weights[slot_of_row[r]].
struct PermuteRows {
  ConstMatrix x;                      // [T, D] act
  Vector<const int32_t> slot_of_row;  // [rows]
  int64_t top_k = 0;
  Matrix y;                     // [rows, D] act =
  Vector<const float> weights;  // [T, K]; optional
  Vector<float> row_weight;     // [rows] =; with weights
};
// y[t, :] (+)= Σ_k x[row_of_slot[t·K + k], :]; with row_values, slot_values[t·K + k] =
// row_values[row_of_slot[t·K + k]]. A dropped slot (row −1) adds nothing and has value 0.
struct UnpermuteSum {
  ConstMatrix x;                      // [rows, D] act; optional
  Vector<const int32_t> row_of_slot;  // [T·K]
  int64_t top_k = 0;
  Matrix y;  // [T, D] act
  bool accumulate = false;
  Vector<const float>
      row_values;  // [rows]; optional: gradients of the routing weights on their way back
  Vector<float> slot_values;  // [T·K] =
};

// ---- embedding, loss, elementwise
// ------------------------------------------------------------------------------------------------

// The table, or rows [first, first + V) of a table of `vocabulary` rows: an id that the rows don't
// have gives a row of zeros, and nothing to dtable.
struct EmbeddingForward {
  ConstMatrix table;          // [V, D] act
  Vector<const int32_t> ids;  // [T], each in [0, V), or [0, vocabulary)
  Matrix y;                   // [T, D] act =
  int64_t first = 0;
  int64_t vocabulary = 0;  // 0: the table is whole
};
struct EmbeddingBackward {
  ConstMatrix dy;             // [T, D] act
  Vector<const int32_t> ids;  // [T]
  Matrix dtable;              // [V, D] f32 +=; the same order of additions on every run
  int64_t first = 0;
  int64_t vocabulary = 0;  // 0: the table is whole
};

// Per row r with label ≥ 0: loss += scale · (logsumexp(logits[r]) − logits[r, label]); with
// want_grad, logits become scale · (softmax − onehot) in place. Rows with label −1 are left out
// (their gradient is 0).
struct CrossEntropy {
  Matrix logits;                 // [rows, V] act or f32, overwritten when want_grad
  Vector<const int32_t> labels;  // [rows]
  double loss_scale = 1.0;       // scale of the reported loss
  float grad_scale = 1.0f;       // scale of the gradient
  bool want_grad = false;
  double* loss = nullptr;  // device scalar +=
};

// The same of a vocabulary that is cut: each rank has columns [first, first + V) of the logits.
// First each row's statistics of these columns: their largest m, Σ e^(logit − m), and the label's
// logit where the label is one of them, else 0; with keep_terms, logits become e^(logit − m) in
// place.
struct CrossEntropyStatistics {
  Matrix logits;                 // [rows, V] f32, overwritten when keep_terms
  Vector<const int32_t> labels;  // [rows], of the whole vocabulary
  int64_t first = 0;
  bool keep_terms = false;
  Vector<float> statistics;  // [rows, 3] =
};
// Then, from all ranks' statistics, what CrossEntropy does with the whole: per row with label ≥ 0,
// loss += scale · (logsumexp − label's logit); with want_grad, terms become scale · (softmax −
// onehot) of these columns.
struct CrossEntropyFinish {
  Matrix terms;                  // [rows, V] f32: kept terms; only with want_grad
  Vector<const int32_t> labels;  // [rows], of the whole vocabulary
  int64_t first = 0;
  int64_t ranks = 1;
  int64_t rank = 0;                // whose columns these are
  Vector<const float> statistics;  // [ranks, rows, 3]
  double loss_scale = 1.0;
  float grad_scale = 1.0f;
  bool want_grad = false;
  double* loss = nullptr;  // device scalar +=; optional: one rank reports
};

struct Add {      // y += x, elementwise
  ConstMatrix x;  // [rows, cols] act
  Matrix y;       // [rows, cols] act
};
struct Cast {     // y = x in y's dtype
  ConstMatrix x;  // f32 or bf16
  Matrix y;       // f32 or bf16
};

// ---- optimizer
// --------------------------------------------------------------------------------------------------------------------

// *sum += Σ x², in f64, in an order that depends on the size alone.
struct SquaredNorm {
  Vector<const float> x;
  double* sum = nullptr;  // device scalar
};
// Decoupled weight decay (Loshchilov & Hutter 2019), all in f32:
//   g = grad · *grad_scale; m = β1 m + (1−β1) g; v = β2 v + (1−β2) g²;
//   master −= lr · (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay · master); compute = master
//   in its dtype.
struct AdamW {
  Vector<float> master;
  Vector<const float> grad;
  void* exp_avg = nullptr;     // [n] moments_dtype
  void* exp_avg_sq = nullptr;  // [n] moments_dtype
  DType moments_dtype = DType::kF32;
  void* compute = nullptr;            // [n] bf16; null when the model computes with the master
  const float* grad_scale = nullptr;  // device scalar: clipping, or null for 1
  float lr = 0.0f;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  float bias1 = 1.0f;  // 1 − β1^t
  float bias2 = 1.0f;  // 1 − β2^t
};
// *scale = min(1, max_norm / sqrt(*sum_of_squares)) and *norm = sqrt(*sum_of_squares); max_norm 0:
// scale is 1.
struct ClipScale {
  const double* sum_of_squares = nullptr;  // device scalar
  float max_norm = 0.0f;
  float* scale = nullptr;  // device scalar =
  double* norm = nullptr;  // device scalar =
};

}  // namespace dsv3::ops
