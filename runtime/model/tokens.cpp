// Gathers, sums and exchanges of tokens; see tokens.h.
#include "runtime/model/tokens.h"

#include <algorithm>
#include <array>
#include <span>

namespace dsv3::model {
namespace {

constexpr std::string_view kScratch = "transient/exchange";
constexpr int64_t kGroupMax = 256;  // ranks of a TP or CP group

// The same count for every member, without allocating.
class EvenCounts {
 public:
  EvenCounts(int64_t ranks, int64_t count) : ranks_(static_cast<size_t>(ranks)) {
    DSV3_CHECK(ranks <= kGroupMax, "a TP or CP group of more than 256 ranks");
    std::fill_n(counts_.begin(), ranks_, count);
  }
  operator std::span<const int64_t>() const { return {counts_.data(), ranks_}; }  // NOLINT

 private:
  size_t ranks_;
  std::array<int64_t, kGroupMax> counts_;
};

comm::ConstBuffer buffer_of(const ops::ConstMatrix& m) {
  DSV3_CHECK(m.stride == m.cols || m.rows <= 1, "an exchange of rows that are not contiguous");
  return {m.data, m.rows * m.cols, m.dtype};
}
comm::Buffer buffer_of(const ops::Matrix& m) {
  DSV3_CHECK(m.stride == m.cols || m.rows <= 1, "an exchange of rows that are not contiguous");
  return {m.data, m.rows * m.cols, m.dtype};
}
void copy(const Pass& pass, ops::ConstMatrix from, ops::Matrix to) {
  ops::cast(pass.ctx, {.x = from, .y = to});
}
tensor::Tensor push_like(const Pass& pass, ops::ConstMatrix m, int64_t rows, int64_t cols) {
  return pass.arena.push(kScratch, m.dtype, {rows, cols});
}

// Calls f(packed row, whole row, rows) for every run of neighbouring positions: packed rows are
// [tp, cp, sequences, local_sequence], whole rows are in order of positions (token_positions()).
template <typename F>
void for_each_run(const Pass& pass, const F& f) {
  const int64_t cp = pass.cp(), local = pass.local_sequence();
  const int64_t part = pass.sequence / (2 * cp);
  for (int64_t t = 0; t < pass.tp(); ++t) {
    for (int64_t c = 0; c < cp; ++c) {
      for (int64_t b = 0; b < pass.sequences; ++b) {
        const int64_t packed = ((t * cp + c) * pass.sequences + b) * local;
        for (const int64_t half : {0, 1}) {
          const int64_t begin = std::max(t * local, half * part);
          const int64_t end = std::min((t + 1) * local, (half + 1) * part);
          if (begin >= end) continue;
          const int64_t position = (half == 0 ? c : 2 * cp - 1 - c) * part + begin - half * part;
          f(packed + begin - t * local, b * pass.sequence + position, end - begin);
        }
      }
    }
  }
}

}  // namespace

TokenMove start_gather_tokens(const Pass& pass, std::string_view op, ops::ConstMatrix local,
                              ops::Matrix gathered) {
  const int64_t here = pass.local_sequence(), all = pass.gathered_sequence();
  DSV3_CHECK(local.rows == pass.tokens() && gathered.rows == pass.gathered_tokens(), op);
  const EvenCounts counts(pass.tp(), here * local.cols);
  comm::Communicator* group = pass.groups->tensor;
  comm::Ticket ticket = 0;
  for (int64_t b = 0; b < pass.sequences; ++b) {
    ticket = group->start_all_gather(op, buffer_of(local.row_range(b * here, here)),
                                     buffer_of(gathered.row_range(b * all, all)), counts);
  }
  return {group, ticket};
}

TokenMove start_scatter_tokens(const Pass& pass, std::string_view op, ops::ConstMatrix partial,
                               ops::Matrix local) {
  const int64_t here = pass.local_sequence(), all = pass.gathered_sequence();
  DSV3_CHECK(local.rows == pass.tokens() && partial.rows == pass.gathered_tokens(), op);
  const EvenCounts counts(pass.tp(), here * local.cols);
  comm::Communicator* group = pass.groups->tensor;
  comm::Ticket ticket = 0;
  for (int64_t b = 0; b < pass.sequences; ++b) {
    ticket = group->start_reduce_scatter(op, buffer_of(partial.row_range(b * all, all)),
                                         buffer_of(local.row_range(b * here, here)), counts,
                                         comm::Reduce::kSum);
  }
  return {group, ticket};
}

tensor::Tensor gather_tokens(const Pass& pass, std::string_view op, std::string_view name,
                             ops::ConstMatrix local) {
  const tensor::Tensor gathered =
      pass.arena.push(name, local.dtype, {pass.gathered_tokens(), local.cols});
  start_gather_tokens(pass, op, local, gathered).wait();
  return gathered;
}

void add_scattered_tokens(const Pass& pass, std::string_view op, ops::ConstMatrix partial,
                          ops::Matrix y) {
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor sum = push_like(pass, partial, pass.tokens(), partial.cols);
  start_scatter_tokens(pass, op, partial, sum).wait();
  ops::add(pass.ctx, {.x = sum, .y = y});
}

void all_gather_even(const Pass& pass, std::string_view op, ops::Vector<const float> own,
                     ops::Vector<float> all) {
  pass.groups->tensor->all_gather(op, {own.data, own.size, DType::kF32},
                                  {all.data, all.size, DType::kF32},
                                  EvenCounts(pass.tp(), own.size));
}

void columns_to_tokens(const Pass& pass, std::string_view op, ops::ConstMatrix columns,
                       ops::Matrix tokens) {
  const tensor::Scope scope(pass.arena);
  const int64_t here = pass.local_sequence(), all = pass.gathered_sequence(), n = columns.cols;
  const EvenCounts counts(pass.tp(), here * n);
  // Of one sequence: [tp, local_sequence, n], as they come from the ranks in turn.
  const tensor::Tensor blocks = push_like(pass, columns, pass.gathered_tokens(), n);
  comm::Communicator* group = pass.groups->tensor;
  comm::Ticket ticket = 0;
  for (int64_t b = 0; b < pass.sequences; ++b) {
    ticket = group->start_all_to_all(op, buffer_of(columns.row_range(b * all, all)), counts,
                                     buffer_of(blocks.matrix().row_range(b * all, all)), counts);
  }
  group->wait(ticket);
  for (int64_t b = 0; b < pass.sequences; ++b) {
    for (int64_t t = 0; t < pass.tp(); ++t) {
      copy(pass, blocks.matrix().row_range(b * all + t * here, here),
           tokens.row_range(b * here, here).col_range(t * n, n));
    }
  }
}

void tokens_to_columns(const Pass& pass, std::string_view op, ops::ConstMatrix tokens,
                       ops::Matrix columns) {
  const tensor::Scope scope(pass.arena);
  const int64_t here = pass.local_sequence(), all = pass.gathered_sequence(), n = columns.cols;
  const EvenCounts counts(pass.tp(), here * n);
  const tensor::Tensor blocks = push_like(pass, columns, pass.gathered_tokens(), n);
  for (int64_t b = 0; b < pass.sequences; ++b) {
    for (int64_t t = 0; t < pass.tp(); ++t) {
      copy(pass, tokens.row_range(b * here, here).col_range(t * n, n),
           blocks.matrix().row_range(b * all + t * here, here));
    }
  }
  comm::Communicator* group = pass.groups->tensor;
  comm::Ticket ticket = 0;
  for (int64_t b = 0; b < pass.sequences; ++b) {
    ticket = group->start_all_to_all(op, buffer_of(blocks.matrix().row_range(b * all, all)), counts,
                                     buffer_of(columns.row_range(b * all, all)), counts);
  }
  group->wait(ticket);
}

WholeGather::WholeGather(const Pass& pass, std::string_view op, ops::ConstMatrix local,
                         ops::Matrix whole)
    : pass_(pass), op_(op), whole_(whole) {
  DSV3_CHECK(local.rows == pass.tokens() && whole.rows == pass.sequences * pass.sequence, op);
  if (pass.cp() == 1) {
    move_ = start_gather_tokens(pass, op, local, whole);
    return;
  }
  of_context_ = push_like(pass, local, pass.cp() * local.rows, local.cols);
  comm::Communicator* group = pass.groups->context;
  move_ = {group, group->start_all_gather(op, buffer_of(local), buffer_of(of_context_.matrix()),
                                          EvenCounts(pass.cp(), local.rows * local.cols))};
}

void WholeGather::finish() {
  move_.wait();
  if (pass_.cp() == 1) return;
  tensor::Tensor packed = of_context_;
  if (pass_.tp() > 1) {
    const ops::ConstMatrix part = of_context_.matrix();
    packed = push_like(pass_, part, pass_.tp() * part.rows, part.cols);
    pass_.groups->tensor->all_gather(op_, buffer_of(part), buffer_of(packed.matrix()),
                                     EvenCounts(pass_.tp(), part.rows * part.cols));
  }
  for_each_run(pass_, [&](int64_t from, int64_t to, int64_t rows) {
    copy(pass_, packed.matrix().row_range(from, rows), whole_.row_range(to, rows));
  });
}

void scatter_whole(const Pass& pass, std::string_view op, ops::ConstMatrix partial,
                   ops::Matrix local) {
  DSV3_CHECK(local.rows == pass.tokens() && partial.rows == pass.sequences * pass.sequence, op);
  if (pass.cp() == 1) {
    start_scatter_tokens(pass, op, partial, local).wait();
    return;
  }
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor packed = push_like(pass, partial, partial.rows, partial.cols);
  for_each_run(pass, [&](int64_t to, int64_t from, int64_t rows) {
    copy(pass, partial.row_range(from, rows), packed.matrix().row_range(to, rows));
  });
  tensor::Tensor of_context = packed;
  if (pass.tp() > 1) {
    of_context = push_like(pass, partial, pass.cp() * local.rows, local.cols);
    pass.groups->tensor->reduce_scatter(op, buffer_of(ops::ConstMatrix(packed.matrix())),
                                        buffer_of(of_context.matrix()),
                                        EvenCounts(pass.tp(), pass.cp() * local.rows * local.cols));
  }
  pass.groups->context->reduce_scatter(op, buffer_of(ops::ConstMatrix(of_context.matrix())),
                                       buffer_of(local),
                                       EvenCounts(pass.cp(), local.rows * local.cols));
}

}  // namespace dsv3::model
