// The exchange of rows between ranks and their experts: who sends what to whom, the way there and
// the way back.
//
// Laws: counts go first, so that every buffer and message has the exact size: nothing is padded,
// nothing dropped, and a rank or an expert without rows is a message of no bytes. A rank's rows
// leave in order of (owner, expert, token), which is the router's; they arrive in order of (source,
// expert, token), and one permutation puts them in order of (expert, source, token), so results
// don't depend on timing. The backward takes the forward's routes. With etp 1 the members of the
// group `experts` (EP·TP ranks) hold different experts. With etp = TP (EP ranks) each TP rank has a
// strip of every expert's width: what arrived is gathered over TP, in order of (TP rank, source,
// expert, token), and the strips' partial sums are reduce-scattered before they travel back.
//
// Bytes that a rank sends per layer and micro-batch (Traffic counts them; a = act's bytes, M
// members, E experts, S rows that go to other members, R rows received from them, A rows arrived,
// itself included, D d_model):
//   forward   experts: 4·E·(M−1)/M counts + S·(D·a + 4) rows and weights + R·D·a outputs
//   backward  experts: S·D·a gradients of outputs + R·(D·a + 4) of rows and weights
//   etp = TP, over `tensor`: forward (TP−1)·(4·E + A·(D·a + 4)) + A_others·D·a,
//             backward (TP−1)·A·D·a + A_others·(D·a + 4)
// In the mean S = tokens · top_k · (M−1)/M.
//
// Sizes are read on the host: the CPU's arena is host memory. A GPU would copy the counts (a few
// hundred numbers) to pinned memory while the shared experts run, and allot the rows from a bound.
// How many rows come changes from step to step: where they exceed what any step had, the arena's
// stack grows by a chunk, which its ledger shows; else nothing is allocated.
#pragma once

#include "runtime/model/pass.h"

namespace dsv3::model {

// Who sends what to whom, in rows. Made by the forward, kept for the backward.
struct ExpertRoutes {
  int64_t sent = 0;      // of this rank's tokens
  int64_t received = 0;  // from all members, itself included
  int64_t rows = 0;      // for the experts that are here: received, under etp = TP by all TP ranks
  tensor::Tensor send_rows, receive_rows;  // [members] i64
  tensor::Tensor strip_rows;               // [TP or 1] i64: received by every TP rank
  tensor::Tensor offsets;                  // [experts here + 1] i32: first row of each
  // Empty where nothing travels: rows are in order as they are.
  tensor::Tensor arrival_of_row, row_of_arrival;  // [rows] i32
};

// Whether experts are anywhere else than here.
bool experts_travel(const Pass& pass);

// Exchanges counts and pushes what ExpertRoutes names. offsets [experts + 1] i32 of the router;
// `slots` rows at most. Without travelling it reads offsets only where `drops` says that rows may
// be fewer than slots.
ExpertRoutes plan_routes(const Pass& pass, const tensor::Tensor& offsets, int64_t experts_here,
                         int64_t slots, bool drops);

// Rows on their way to their experts. Everything is pushed by the constructor, so that the caller's
// scope covers it; requires experts_travel().
class Dispatch {
 public:
  // values: a number of each row (its routing weight) travels too.
  Dispatch(const Pass& pass, const ExpertRoutes& routes, std::string_view op, int64_t cols,
           bool values);
  // To be filled before start(): [sent, cols] act, [sent] f32.
  ops::Matrix out() const { return out_; }
  ops::Vector<float> out_values() const { return out_values_.vector<float>(); }
  // Other work may run between the two.
  void start();
  void finish();
  // After finish(), in order of arrival: [rows, cols] act, [rows] f32.
  ops::ConstMatrix arrivals() const { return arrivals_; }
  ops::Vector<const float> arrived_values() const { return values_.vector<const float>(); }

 private:
  const Pass& pass_;
  const ExpertRoutes& routes_;
  std::string_view op_;
  int64_t cols_;
  tensor::Tensor out_, out_values_, arrivals_, values_;
  comm::Ticket rows_ticket_ = 0, values_ticket_ = 0;
};

// Rows on their way back. Requires experts_travel().
class Combine {
 public:
  // room: at least [max(rows, sent), cols] act, where back() will be; the caller's until start().
  Combine(const Pass& pass, const ExpertRoutes& routes, std::string_view op,
          const tensor::Tensor& room, bool values);
  // To be filled before start(), in order of arrival: [rows, cols] act, [rows] f32.
  ops::Matrix in() const { return in_; }
  ops::Vector<float> in_values() const { return in_values_.vector<float>(); }
  // Under etp = TP what the strips say of a row is added up first, and waited for. Other work may
  // run between the two.
  void start();
  void finish();
  // After finish(), in the order in which they were sent: [sent, cols] act, [sent] f32.
  ops::ConstMatrix back() const { return back_; }
  ops::Vector<const float> back_values() const { return back_values_.vector<const float>(); }

 private:
  const Pass& pass_;
  const ExpertRoutes& routes_;
  std::string_view op_;
  int64_t cols_;
  tensor::Tensor in_, in_values_, mine_, mine_values_, back_, back_values_;
  comm::Ticket rows_ticket_ = 0, values_ticket_ = 0;
};

}  // namespace dsv3::model
