// Where a module's tokens go: gathers and sums over TP and CP, and exchanges of columns for tokens.
//
// Laws: rows are ordered by sequence, then by position within what a rank holds (pass.h), on both
// sides of every move; a gather followed by the product's input gradient is undone by the scatter,
// which sums. Over TP there is one operation a sequence, so nothing is reordered (sequence
// parallelism, Korthikanti et al. 2022, arXiv 2205.05198). A move that is started is under way
// while other work runs; what it reads and writes stays untouched until wait(). With TP 1 (and CP 1
// for whole sequences) a module has nothing to move and calls none of this.
// Matrices here are contiguous. Errors: comm::Failure (communicator.h).
#pragma once

#include <string_view>

#include "runtime/model/pass.h"

namespace dsv3::model {

// Operations under way in one group; waited for as one.
class TokenMove {
 public:
  TokenMove() = default;
  TokenMove(comm::Communicator* group, comm::Ticket last) : group_(group), last_(last) {}
  // Until the last of them is done. Idempotent.
  void wait() {
    if (group_) group_->wait(last_);
    group_ = nullptr;
  }

 private:
  comm::Communicator* group_ = nullptr;
  comm::Ticket last_ = 0;
};

// gathered [gathered_tokens, n] = local [tokens, n] of all TP ranks, sequence by sequence. TP > 1.
[[nodiscard]] TokenMove start_gather_tokens(const Pass& pass, std::string_view op,
                                            ops::ConstMatrix local, ops::Matrix gathered);
// local [tokens, n] = the sum over the TP ranks of their partial [gathered_tokens, n], of which
// each gets its own tokens. TP > 1.
[[nodiscard]] TokenMove start_scatter_tokens(const Pass& pass, std::string_view op,
                                             ops::ConstMatrix partial, ops::Matrix local);
// Pushes and fills local's gathered tokens [gathered_tokens, n] under `name`. TP > 1.
tensor::Tensor gather_tokens(const Pass& pass, std::string_view op, std::string_view name,
                             ops::ConstMatrix local);
// y [tokens, n] += the scattered sum of partial. TP > 1.
void add_scattered_tokens(const Pass& pass, std::string_view op, ops::ConstMatrix partial,
                          ops::Matrix y);

// all = the TP ranks' `own`, in order of ranks, as many from each; own may be its part of all. TP
// > 1.
void all_gather_even(const Pass& pass, std::string_view op, ops::Vector<const float> own,
                     ops::Vector<float> all);

// Of a product whose output columns are cut over TP: tokens [tokens, n] = this rank's tokens with
// all columns, from every TP rank's columns [gathered_tokens, n / tp]. One all-to-all a sequence.
void columns_to_tokens(const Pass& pass, std::string_view op, ops::ConstMatrix columns,
                       ops::Matrix tokens);
// Its transpose: columns [gathered_tokens, n / tp] of this rank from all TP ranks' tokens.
void tokens_to_columns(const Pass& pass, std::string_view op, ops::ConstMatrix tokens,
                       ops::Matrix columns);

// whole [sequences · sequence, n] in order of positions = local [tokens, n] of all CP and TP ranks:
// over CP first, where a link may be slow and the parts are smallest, then over TP. Starts when
// made, pushes scratch that finish() leaves on the arena. CP or TP > 1.
class WholeGather {
 public:
  WholeGather(const Pass& pass, std::string_view op, ops::ConstMatrix local, ops::Matrix whole);
  void finish();

 private:
  const Pass& pass_;
  std::string_view op_;
  ops::Matrix whole_;
  tensor::Tensor of_context_;  // [cp, tokens, n]
  TokenMove move_;
};
// local [tokens, n] = the sum over all TP and CP ranks of their partial [sequences · sequence, n].
void scatter_whole(const Pass& pass, std::string_view op, ops::ConstMatrix partial,
                   ops::Matrix local);

}  // namespace dsv3::model
