// Multi-head latent attention of the reference: a whole row of scores at a time, softmax by its
// definition.
#include <cmath>
#include <vector>

#include "tests/kernels/reference/reference_backend.h"

namespace dsv3::reference {
namespace {

// The operands as seen by one (query row, key row, head); rows are tokens of the whole batch.
struct Operands {
  const ops::MlaShape& shape;
  const ops::ConstMatrix &q_all, &kv_all, &k_rope_all;

  int64_t width() const { return shape.nope_dim + shape.rope_dim; }
  double q(int64_t row, int64_t head, int64_t i) const {
    return load(q_all, row, head * width() + i);
  }
  double k(int64_t row, int64_t head, int64_t i) const {
    if (i >= shape.nope_dim) return load(k_rope_all, row, i - shape.nope_dim);
    return load(kv_all, row, head * (shape.nope_dim + shape.v_dim) + i);
  }
  double v(int64_t row, int64_t head, int64_t i) const {
    return load(kv_all, row, head * (shape.nope_dim + shape.v_dim) + shape.nope_dim + i);
  }
  double score(int64_t query, int64_t key, int64_t head) const {
    double dot = 0.0;
    for (int64_t i = 0; i < width(); ++i) dot += q(query, head, i) * k(key, head, i);
    return shape.scale * dot;
  }
};

// The first token of a query's sequence, and the one behind the query's own position.
int64_t first_key(const ops::MlaShape& s, int64_t query) {
  return query / s.num_queries() * s.sequence;
}
int64_t end_key(const ops::MlaShape& s, int64_t query) {
  return first_key(s, query) + s.sequence - s.num_queries() + query % s.num_queries() + 1;
}

}  // namespace

void ReferenceBackend::mla_attention_forward(const ops::Context&,
                                             const ops::MlaAttentionForward& args) {
  const ops::MlaShape& s = args.shape;
  const Operands in{s, args.q, args.kv, args.k_rope};
  for (int64_t head = 0; head < s.heads; ++head)
    for (int64_t query = 0; query < s.batch * s.num_queries(); ++query) {
      const int64_t first = first_key(s, query), end = end_key(s, query);
      std::vector<double> scores;
      double largest = -INFINITY, sum = 0.0;
      for (int64_t key = first; key < end; ++key) {
        scores.push_back(in.score(query, key, head));
        largest = std::max(largest, scores.back());
      }
      for (double score : scores) sum += std::exp(score - largest);
      const double lse = largest + std::log(sum);
      for (int64_t i = 0; i < s.v_dim; ++i) {
        double out = 0.0;
        for (int64_t key = first; key < end; ++key)
          out += std::exp(scores[key - first] - lse) * in.v(key, head, i);
        store(args.out, query, head * s.v_dim + i, out);
      }
      args.lse.data[query * s.heads + head] = static_cast<float>(lse);
    }
}

void ReferenceBackend::mla_attention_backward(const ops::Context&,
                                              const ops::MlaAttentionBackward& args) {
  const ops::MlaShape& s = args.shape;
  const Operands in{s, args.q, args.kv, args.k_rope};
  const int64_t width = in.width(), tokens = s.batch * s.sequence;
  const int64_t queries = s.batch * s.num_queries();
  std::vector<double> dk_rope(tokens * s.rope_dim, 0.0);
  for (int64_t head = 0; head < s.heads; ++head) {
    std::vector<double> dq(queries * width, 0.0), dk(tokens * width, 0.0),
        dv(tokens * s.v_dim, 0.0);
    for (int64_t query = 0; query < queries; ++query) {
      double delta = 0.0;  // Σ dout · out
      for (int64_t i = 0; i < s.v_dim; ++i) {
        delta +=
            load(args.dout, query, head * s.v_dim + i) * load(args.out, query, head * s.v_dim + i);
      }
      for (int64_t key = first_key(s, query); key < end_key(s, query); ++key) {
        const double p =
            std::exp(in.score(query, key, head) - args.lse.data[query * s.heads + head]);
        double dp = 0.0;
        for (int64_t i = 0; i < s.v_dim; ++i)
          dp += load(args.dout, query, head * s.v_dim + i) * in.v(key, head, i);
        const double ds = s.scale * p * (dp - delta);
        for (int64_t i = 0; i < width; ++i) {
          dq[query * width + i] += ds * in.k(key, head, i);
          dk[key * width + i] += ds * in.q(query, head, i);
        }
        for (int64_t i = 0; i < s.v_dim; ++i)
          dv[key * s.v_dim + i] += p * load(args.dout, query, head * s.v_dim + i);
      }
    }
    for (int64_t t = 0; t < queries; ++t)
      for (int64_t i = 0; i < width; ++i) store(args.dq, t, head * width + i, dq[t * width + i]);
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t kv_column = head * (s.nope_dim + s.v_dim);
      for (int64_t i = 0; i < s.nope_dim; ++i) store(args.dkv, t, kv_column + i, dk[t * width + i]);
      for (int64_t i = 0; i < s.v_dim; ++i)
        store(args.dkv, t, kv_column + s.nope_dim + i, dv[t * s.v_dim + i]);
      for (int64_t i = 0; i < s.rope_dim; ++i)
        dk_rope[t * s.rope_dim + i] += dk[t * width + s.nope_dim + i];
    }
  }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < s.rope_dim; ++i) store(args.dk_rope, t, i, dk_rope[t * s.rope_dim + i]);
}

}  // namespace dsv3::reference
