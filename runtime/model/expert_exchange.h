// The exchange of rows between ranks and their experts: who sends what to whom, the way there and
// the way back.
//
// Laws: counts go first, so that every buffer and message has the exact size: nothing is padded,
// nothing dropped, and a rank or an expert without rows is a message of no bytes. A rank's experts
// are cut into plan::expert_parts() runs, each with messages of its own, so that the rows of one
// part travel while another part is computed; a row's neighbours in its expert don't change by
// that, nor does a bit. A part's rows leave in order of (owner, expert, token); they arrive in
// order of (source, expert, token), and one permutation puts them in order of (expert, source,
// token), so results don't depend on timing. The backward takes the forward's routes. With etp 1
// the members of the group `experts` (EP·TP ranks) hold different experts. With etp = TP (EP ranks)
// each TP rank has a strip of every expert's width: what arrived is gathered over TP, in order of
// (TP rank, source, expert, token), and the strips' partial sums are reduce-scattered before they
// travel back.
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

#include <array>
#include <string_view>

#include "cluster/plan/shard_map.h"
#include "runtime/model/moe_router.h"

namespace dsv3::model {

// One run of the experts that are here: who sends what to whom, in rows.
struct ExpertPart {
  int64_t first_expert = 0, experts = 0;   // of those that are here
  int64_t first_sent = 0, sent = 0;        // of this rank's tokens, in ExpertRoutes::slot_of_sent
  int64_t first_row = 0, rows = 0;         // for these experts, whoever sent them
  int64_t received = 0;                    // of rows: by this rank, from all members
  tensor::Tensor send_rows, receive_rows;  // [members] i64
  tensor::Tensor strip_rows;               // [TP or 1] i64: received by every TP rank
  tensor::Tensor offsets;                  // [experts + 1] i32: first row of each, from 0
  // [rows] i32, within the part; empty where nothing travels: rows are in order as they are.
  tensor::Tensor arrival_of_row, row_of_arrival;
};

// Made by the forward, kept for the backward.
struct ExpertRoutes {
  int64_t sent = 0, rows = 0;   // of all parts
  tensor::Tensor offsets;       // [experts here + 1] i32: first row of each expert
  tensor::Tensor slot_of_sent;  // [sent] i32, by part
  tensor::Tensor sent_of_slot;  // [slots] i32, −1: dropped
  std::array<ExpertPart, plan::kExpertParts> parts;
  int64_t num_parts = 0;
  const ExpertPart& part(int64_t p) const { return parts[static_cast<size_t>(p)]; }
};

// Whether experts are anywhere else than here.
bool experts_travel(const Pass& pass);

// Exchanges counts and pushes what ExpertRoutes names. Without travelling there is one part, in the
// router's order, and the device is asked only where `drops` says that rows may be fewer than
// slots.
ExpertRoutes plan_routes(const Pass& pass, const RouterStash& routed, int64_t experts_here,
                         bool drops);

// Rows on their way to their experts and back, part by part. Everything is pushed by the
// constructor, so that the caller's scope covers it; requires experts_travel(). Other work may run
// between start and finish. Parts are started in order, there and back.
class RoundTrip {
 public:
  // The way on which a number of each row (its routing weight, or that one's gradient) travels too.
  enum class Values { kOut, kBack };
  struct Names {
    std::string_view out, back;
  };
  RoundTrip(const Pass& pass, const ExpertRoutes& routes, const Names& names, int64_t cols,
            Values values);

  // To be filled before start_out(): [sent, cols] act and (kOut) [sent] f32 of the part.
  ops::Matrix leaving(int64_t part) const;
  ops::Vector<float> leaving_values(int64_t part) const;
  void start_out(int64_t part);
  void finish_out(int64_t part);
  // After finish_out() what came, in order of arrival, [rows, cols] act and (kOut) [rows] f32; to
  // be overwritten with what goes back, in the same order, before start_back().
  ops::Matrix arrived(int64_t part) const;
  ops::Vector<float> arrived_values(int64_t part) const;
  // Under etp = TP what the strips say of a row is added up first, and waited for.
  void start_back(int64_t part);
  // Of all parts.
  void finish_back();
  // Then [routes.sent, cols] act and (kBack) [routes.sent] f32, by slot_of_sent.
  ops::ConstMatrix back() const { return leaving_; }
  ops::Vector<const float> back_values() const { return leaving_values_.vector<const float>(); }

 private:
  tensor::Tensor arrived_here(int64_t part) const;
  tensor::Tensor arrived_values_here(int64_t part) const;

  const Pass& pass_;
  const ExpertRoutes& routes_;
  Names names_;
  int64_t cols_;
  Values values_;
  // Of all parts: what left, then came back; what arrived, then goes back. Alone in the group the
  // former is a view of the latter.
  tensor::Tensor leaving_, leaving_values_, arrived_, arrived_values_;
  std::array<comm::Ticket, plan::kExpertParts> rows_out_{}, values_out_{};
  comm::Ticket last_back_ = 0;
};

}  // namespace dsv3::model
