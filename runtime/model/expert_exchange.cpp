// Counts, routes, and the two ways; see expert_exchange.h.
#include "runtime/model/expert_exchange.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <span>

namespace dsv3::model {
namespace {

constexpr std::string_view kPlace = "activations/moe/router";
constexpr std::string_view kBuffer = "transient/moe/exchange";

// The TP ranks that hold strips of the same experts, or one.
int64_t strips(const Pass& pass) {
  return pass.groups->layout.etp > 1 ? pass.tp() : 1;
}
int64_t strip(const Pass& pass) {
  return strips(pass) > 1 ? pass.groups->position.tp_rank : 0;
}
int64_t members(const Pass& pass) {
  return pass.groups->experts ? pass.groups->experts->size() : 1;
}

std::span<const int64_t> span_of(const tensor::Tensor& counts) {
  return {counts.as<int64_t>(), static_cast<size_t>(counts.num_elements())};
}
int64_t sum_of(const tensor::Tensor& counts) {
  const auto all = span_of(counts);
  return std::accumulate(all.begin(), all.end(), int64_t{0});
}
comm::Buffer buffer_of(const tensor::Tensor& t) {
  return {t.data, t.num_elements(), t.dtype};
}

// counts · times, pushed: elements of messages from rows.
tensor::Tensor times(const Pass& pass, const tensor::Tensor& counts, int64_t factor) {
  const tensor::Tensor scaled = pass.arena.push(kPlace, DType::kI64, counts.shape);
  for (int64_t i = 0; i < counts.num_elements(); ++i)
    scaled.as<int64_t>()[i] = counts.as<int64_t>()[i] * factor;
  return scaled;
}
tensor::Tensor filled(const Pass& pass, int64_t size, int64_t value) {
  const tensor::Tensor counts = pass.arena.push(kPlace, DType::kI64, {size});
  std::fill_n(counts.as<int64_t>(), size, value);
  return counts;
}

// Rows [first, first + count) of a tensor of rows, or of their values.
tensor::Tensor run_of(const tensor::Tensor& all, int64_t first, int64_t count) {
  const int64_t cols = all.shape.rank() == 2 ? all.shape[1] : 1;
  tensor::Tensor run = all;
  run.data = static_cast<std::byte*>(all.data) +
             first * cols * static_cast<int64_t>(dtype_bytes(all.dtype));
  run.shape = all.shape.rank() == 2 ? tensor::Shape{count, cols} : tensor::Shape{count};
  return run;
}

// Of a part's rows, where those that this rank received begin.
int64_t first_received(const Pass& pass, const ExpertPart& part) {
  const auto rows = span_of(part.strip_rows);
  return part.first_row + std::accumulate(rows.begin(), rows.begin() + strip(pass), int64_t{0});
}

// arrived [strips, members, experts here] i32: rows of each (TP rank, source, expert).
tensor::Tensor exchange_counts(const Pass& pass, const tensor::Tensor& offsets,
                               int64_t experts_here) {
  const int64_t experts = offsets.num_elements() - 1;
  const tensor::Tensor arrived = pass.push_i32(kPlace, {strips(pass), experts});
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor leaving = pass.push_i32(kPlace, {experts});
  for (int64_t e = 0; e < experts; ++e)
    leaving.as<int32_t>()[e] = offsets.as<int32_t>()[e + 1] - offsets.as<int32_t>()[e];
  const comm::Buffer own{arrived.as<int32_t>() + strip(pass) * experts, experts, DType::kI32};
  if (comm::Communicator* group = pass.groups->experts) {
    const tensor::Tensor each = filled(pass, members(pass), experts_here);
    group->all_to_all("experts/counts", buffer_of(leaving), span_of(each), own, span_of(each));
  } else {
    std::copy_n(leaving.as<int32_t>(), experts, static_cast<int32_t*>(own.data));
  }
  if (strips(pass) > 1) {
    const tensor::Tensor each = filled(pass, strips(pass), experts);
    pass.groups->tensor->all_gather("experts/strip counts", own, buffer_of(arrived), span_of(each));
  }
  return arrived;
}

// Rows that a capacity left: one number read back from the device.
int64_t kept_rows(const Pass& pass, const tensor::Tensor& offsets) {
  int32_t rows = 0;
  pass.ctx.backend->copy_to_host(&rows, offsets.as<int32_t>() + offsets.num_elements() - 1,
                                 sizeof(rows), pass.ctx.stream);
  pass.ctx.backend->synchronize(pass.ctx.stream);
  return rows;
}

// Rows of every (TP rank, source, expert), and the experts of one part.
struct Arrivals {
  tensor::Tensor counts;  // [strips, members, experts here] i32
  int64_t experts_here = 0;
  int64_t num_sources() const { return counts.num_elements() / experts_here; }
  int32_t rows(int64_t source, int64_t expert) const {
    return counts.as<int32_t>()[source * experts_here + expert];
  }
};

// How many rows leave to and come from each member.
void count_rows(const Pass& pass, const tensor::Tensor& offsets, const Arrivals& arrivals,
                ExpertPart* part) {
  const int64_t sources = members(pass), end = part->first_expert + part->experts;
  part->send_rows = filled(pass, sources, 0);
  part->receive_rows = filled(pass, sources, 0);
  part->strip_rows = filled(pass, strips(pass), 0);
  for (int64_t member = 0; member < sources; ++member) {
    const int32_t* first = offsets.as<int32_t>() + member * arrivals.experts_here;
    part->send_rows.as<int64_t>()[member] = first[end] - first[part->first_expert];
  }
  for (int64_t source = 0; source < arrivals.num_sources(); ++source) {
    int64_t rows = 0;
    for (int64_t e = part->first_expert; e < end; ++e) rows += arrivals.rows(source, e);
    part->strip_rows.as<int64_t>()[source / sources] += rows;
    if (source / sources == strip(pass)) part->receive_rows.as<int64_t>()[source % sources] += rows;
  }
  part->sent = sum_of(part->send_rows);
  part->received = sum_of(part->receive_rows);
  part->rows = sum_of(part->strip_rows);
}

// The permutation from order of arrival to order of experts, and where each expert begins.
void order_rows(const Pass& pass, const Arrivals& arrivals, ExpertPart* part) {
  part->offsets = pass.push_i32(kPlace, {part->experts + 1});
  part->arrival_of_row = pass.push_i32(kPlace, {part->rows});
  part->row_of_arrival = pass.push_i32(kPlace, {part->rows});
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor next = pass.push_i32(kPlace, {part->experts});
  int32_t* offsets = part->offsets.as<int32_t>();
  offsets[0] = 0;
  for (int64_t e = 0; e < part->experts; ++e) {
    int32_t rows = 0;
    for (int64_t s = 0; s < arrivals.num_sources(); ++s)
      rows += arrivals.rows(s, part->first_expert + e);
    next.as<int32_t>()[e] = offsets[e];
    offsets[e + 1] = offsets[e] + rows;
  }
  int32_t arrival = 0;
  for (int64_t s = 0; s < arrivals.num_sources(); ++s) {
    for (int64_t e = 0; e < part->experts; ++e) {
      int32_t& row = next.as<int32_t>()[e];
      for (int32_t left = arrivals.rows(s, part->first_expert + e); left > 0; --left) {
        part->arrival_of_row.as<int32_t>()[row] = arrival;
        part->row_of_arrival.as<int32_t>()[arrival] = row;
        ++row, ++arrival;
      }
    }
  }
}

// The order in which rows leave: the router's, (owner, expert, token), taken apart by parts.
void order_sent(const Pass& pass, const RouterStash& routed, int64_t experts_here,
                ExpertRoutes* routes) {
  routes->slot_of_sent = pass.push_i32(kPlace, {routes->sent});
  routes->sent_of_slot = pass.push_i32(kPlace, {routed.row_of_slot.num_elements()});
  const int32_t* offsets = routed.offsets.as<int32_t>();
  const int32_t* slot_of_row = routed.slot_of_row.as<int32_t>();
  int32_t* sent_of_slot = routes->sent_of_slot.as<int32_t>();
  std::fill_n(sent_of_slot, routes->sent_of_slot.num_elements(), -1);
  int32_t sent = 0;
  for (int64_t p = 0; p < routes->num_parts; ++p) {
    const ExpertPart& part = routes->part(p);
    for (int64_t member = 0; member < members(pass); ++member) {
      const int32_t* first = offsets + member * experts_here + part.first_expert;
      for (int32_t row = first[0]; row < first[part.experts]; ++row, ++sent) {
        routes->slot_of_sent.as<int32_t>()[sent] = slot_of_row[row];
        sent_of_slot[slot_of_row[row]] = sent;
      }
    }
  }
}

// One part, in the router's order.
ExpertRoutes routes_here(const Pass& pass, const RouterStash& routed, int64_t experts_here,
                         bool drops) {
  const int64_t slots = routed.row_of_slot.num_elements();
  ExpertRoutes routes;
  routes.num_parts = 1;
  routes.rows = routes.sent = drops ? kept_rows(pass, routed.offsets) : slots;
  routes.offsets = routed.offsets;
  routes.slot_of_sent = run_of(routed.slot_of_row, 0, routes.sent);
  routes.sent_of_slot = routed.row_of_slot;
  routes.parts[0] = {.experts = experts_here,
                     .sent = routes.sent,
                     .rows = routes.rows,
                     .received = routes.rows,
                     .offsets = routes.offsets};
  return routes;
}

}  // namespace

bool experts_travel(const Pass& pass) {
  return members(pass) > 1 || strips(pass) > 1;
}

ExpertRoutes plan_routes(const Pass& pass, const RouterStash& routed, int64_t experts_here,
                         bool drops) {
  const int64_t experts = routed.offsets.num_elements() - 1;
  DSV3_CHECK(experts == experts_here * members(pass), "experts are shared out evenly");
  if (!experts_travel(pass)) return routes_here(pass, routed, experts_here, drops);
  const Arrivals arrivals{exchange_counts(pass, routed.offsets, experts_here), experts_here};
  ExpertRoutes routes;
  routes.num_parts = plan::expert_parts(pass.groups->layout, experts, pass.overlap_experts);
  routes.offsets = pass.push_i32(kPlace, {experts_here + 1});
  for (int64_t p = 0; p < routes.num_parts; ++p) {
    ExpertPart& part = routes.parts[static_cast<size_t>(p)];
    part.first_expert = p * experts_here / routes.num_parts;
    part.experts = (p + 1) * experts_here / routes.num_parts - part.first_expert;
    part.first_sent = routes.sent;
    part.first_row = routes.rows;
    count_rows(pass, routed.offsets, arrivals, &part);
    order_rows(pass, arrivals, &part);
    for (int64_t e = 0; e <= part.experts; ++e) {
      routes.offsets.as<int32_t>()[part.first_expert + e] =
          static_cast<int32_t>(routes.rows) + part.offsets.as<int32_t>()[e];
    }
    routes.sent += part.sent;
    routes.rows += part.rows;
    DSV3_CHECK(routes.rows <= std::numeric_limits<int32_t>::max(), "more rows than 32 bits index");
  }
  order_sent(pass, routed, experts_here, &routes);
  return routes;
}

RoundTrip::RoundTrip(const Pass& pass, const ExpertRoutes& routes, const Names& names, int64_t cols,
                     Values values)
    : pass_(pass), routes_(routes), names_(names), cols_(cols), values_(values) {
  arrived_ = pass.push_rows(kBuffer, routes.rows, cols);
  arrived_values_ = pass.push_f32(kBuffer, {routes.rows});
  if (pass.groups->experts) {
    leaving_ = pass.push_rows(kBuffer, routes.sent, cols);
    leaving_values_ = pass.push_f32(kBuffer, {routes.sent});
    return;
  }
  DSV3_CHECK(routes.num_parts == 1);
  leaving_ = arrived_here(0);
  leaving_values_ = arrived_values_here(0);
}

tensor::Tensor RoundTrip::arrived_here(int64_t part) const {
  return run_of(arrived_, first_received(pass_, routes_.part(part)), routes_.part(part).received);
}
tensor::Tensor RoundTrip::arrived_values_here(int64_t part) const {
  return run_of(arrived_values_, first_received(pass_, routes_.part(part)),
                routes_.part(part).received);
}

ops::Matrix RoundTrip::leaving(int64_t part) const {
  return run_of(leaving_, routes_.part(part).first_sent, routes_.part(part).sent);
}
ops::Vector<float> RoundTrip::leaving_values(int64_t part) const {
  return run_of(leaving_values_, routes_.part(part).first_sent, routes_.part(part).sent)
      .vector<float>();
}
ops::Matrix RoundTrip::arrived(int64_t part) const {
  return run_of(arrived_, routes_.part(part).first_row, routes_.part(part).rows);
}
ops::Vector<float> RoundTrip::arrived_values(int64_t part) const {
  return run_of(arrived_values_, routes_.part(part).first_row, routes_.part(part).rows)
      .vector<float>();
}

void RoundTrip::start_out(int64_t p) {
  comm::Communicator* group = pass_.groups->experts;
  if (!group) return;
  const ExpertPart& part = routes_.part(p);
  const tensor::Scope scope(pass_.arena);
  rows_out_[static_cast<size_t>(p)] = group->start_all_to_all(
      names_.out, buffer_of(run_of(leaving_, part.first_sent, part.sent)),
      span_of(times(pass_, part.send_rows, cols_)), buffer_of(arrived_here(p)),
      span_of(times(pass_, part.receive_rows, cols_)));
  if (values_ != Values::kOut) return;
  values_out_[static_cast<size_t>(p)] = group->start_all_to_all(
      "experts/weights", buffer_of(run_of(leaving_values_, part.first_sent, part.sent)),
      span_of(part.send_rows), buffer_of(arrived_values_here(p)), span_of(part.receive_rows));
}

void RoundTrip::finish_out(int64_t p) {
  const ExpertPart& part = routes_.part(p);
  if (comm::Communicator* group = pass_.groups->experts) {
    group->wait(rows_out_[static_cast<size_t>(p)]);
    if (values_ == Values::kOut) group->wait(values_out_[static_cast<size_t>(p)]);
  }
  if (strips(pass_) == 1) return;
  const tensor::Scope scope(pass_.arena);
  comm::Communicator& tensor = *pass_.groups->tensor;
  const comm::Ticket rows =
      tensor.start_all_gather(names_.out, buffer_of(arrived_here(p)),
                              buffer_of(run_of(arrived_, part.first_row, part.rows)),
                              span_of(times(pass_, part.strip_rows, cols_)));
  if (values_ == Values::kOut) {
    tensor.all_gather("experts/weights", buffer_of(arrived_values_here(p)),
                      buffer_of(run_of(arrived_values_, part.first_row, part.rows)),
                      span_of(part.strip_rows));
  }
  tensor.wait(rows);
}

void RoundTrip::start_back(int64_t p) {
  const ExpertPart& part = routes_.part(p);
  const tensor::Scope scope(pass_.arena);
  if (strips(pass_) > 1) {
    comm::Communicator& tensor = *pass_.groups->tensor;
    const comm::Ticket rows = tensor.start_reduce_scatter(
        names_.back, buffer_of(run_of(arrived_, part.first_row, part.rows)),
        buffer_of(arrived_here(p)), span_of(times(pass_, part.strip_rows, cols_)),
        comm::Reduce::kSum);
    if (values_ == Values::kBack) {
      tensor.reduce_scatter("experts/weights",
                            buffer_of(run_of(arrived_values_, part.first_row, part.rows)),
                            buffer_of(arrived_values_here(p)), span_of(part.strip_rows));
    }
    tensor.wait(rows);
  }
  comm::Communicator* group = pass_.groups->experts;
  if (!group) return;
  last_back_ = group->start_all_to_all(names_.back, buffer_of(arrived_here(p)),
                                       span_of(times(pass_, part.receive_rows, cols_)),
                                       buffer_of(run_of(leaving_, part.first_sent, part.sent)),
                                       span_of(times(pass_, part.send_rows, cols_)));
  if (values_ != Values::kBack) return;
  last_back_ = group->start_all_to_all(
      "experts/weights", buffer_of(arrived_values_here(p)), span_of(part.receive_rows),
      buffer_of(run_of(leaving_values_, part.first_sent, part.sent)), span_of(part.send_rows));
}

// Operations of a group take effect first in, first out.
void RoundTrip::finish_back() {
  if (comm::Communicator* group = pass_.groups->experts) group->wait(last_back_);
}

}  // namespace dsv3::model
