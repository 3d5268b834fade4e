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

// This rank's part of what all strips have, [strip_rows, cols]: a view.
tensor::Tensor own_strip(const Pass& pass, const ExpertRoutes& routes, const tensor::Tensor& all,
                         int64_t cols) {
  const auto rows = span_of(routes.strip_rows);
  const int64_t first =
      std::accumulate(rows.begin(), rows.begin() + strip(pass), int64_t{0}) * cols;
  tensor::Tensor own = all;
  own.data =
      static_cast<std::byte*>(all.data) + first * static_cast<int64_t>(dtype_bytes(all.dtype));
  own.shape =
      all.shape.rank() == 2 ? tensor::Shape{routes.received, cols} : tensor::Shape{routes.received};
  return own;
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

// How many rows leave to and come from each member.
void count_rows(const Pass& pass, const tensor::Tensor& offsets, const tensor::Tensor& arrived,
                int64_t experts_here, ExpertRoutes& routes) {
  const int64_t sources = members(pass);
  routes.send_rows = filled(pass, sources, 0);
  routes.receive_rows = filled(pass, sources, 0);
  routes.strip_rows = filled(pass, strips(pass), 0);
  for (int64_t member = 0; member < sources; ++member) {
    routes.send_rows.as<int64_t>()[member] = offsets.as<int32_t>()[(member + 1) * experts_here] -
                                             offsets.as<int32_t>()[member * experts_here];
  }
  for (int64_t i = 0; i < arrived.num_elements(); ++i) {
    const int64_t source = i / experts_here;
    const int32_t rows = arrived.as<int32_t>()[i];
    routes.strip_rows.as<int64_t>()[source / sources] += rows;
    if (source / sources == strip(pass))
      routes.receive_rows.as<int64_t>()[source % sources] += rows;
  }
  routes.sent = sum_of(routes.send_rows);
  routes.received = sum_of(routes.receive_rows);
  routes.rows = sum_of(routes.strip_rows);
  DSV3_CHECK(routes.rows <= std::numeric_limits<int32_t>::max(), "more rows than 32 bits index");
}

// The permutation from order of arrival to order of experts, and where each expert begins.
void order_rows(const Pass& pass, const tensor::Tensor& arrived, int64_t experts_here,
                ExpertRoutes& routes) {
  routes.offsets = pass.push_i32(kPlace, {experts_here + 1});
  routes.arrival_of_row = pass.push_i32(kPlace, {routes.rows});
  routes.row_of_arrival = pass.push_i32(kPlace, {routes.rows});
  const tensor::Scope scope(pass.arena);
  const tensor::Tensor next = pass.push_i32(kPlace, {experts_here});
  const int64_t sources = arrived.num_elements() / experts_here;
  int32_t* offsets = routes.offsets.as<int32_t>();
  offsets[0] = 0;
  for (int64_t e = 0; e < experts_here; ++e) {
    int32_t rows = 0;
    for (int64_t s = 0; s < sources; ++s) rows += arrived.as<int32_t>()[s * experts_here + e];
    next.as<int32_t>()[e] = offsets[e];
    offsets[e + 1] = offsets[e] + rows;
  }
  int32_t arrival = 0;
  for (int64_t i = 0; i < arrived.num_elements(); ++i) {
    int32_t& row = next.as<int32_t>()[i % experts_here];
    for (int32_t left = arrived.as<int32_t>()[i]; left > 0; --left, ++row, ++arrival) {
      routes.arrival_of_row.as<int32_t>()[row] = arrival;
      routes.row_of_arrival.as<int32_t>()[arrival] = row;
    }
  }
}

}  // namespace

bool experts_travel(const Pass& pass) {
  return members(pass) > 1 || strips(pass) > 1;
}

ExpertRoutes plan_routes(const Pass& pass, const tensor::Tensor& offsets, int64_t experts_here,
                         int64_t slots, bool drops) {
  ExpertRoutes routes;
  const int64_t experts = offsets.num_elements() - 1;
  DSV3_CHECK(experts == experts_here * members(pass), "experts are shared out evenly");
  if (!experts_travel(pass)) {
    routes.rows = routes.sent = routes.received = drops ? kept_rows(pass, offsets) : slots;
    routes.offsets = offsets;
    return routes;
  }
  const tensor::Tensor arrived = exchange_counts(pass, offsets, experts_here);
  count_rows(pass, offsets, arrived, experts_here, routes);
  order_rows(pass, arrived, experts_here, routes);
  return routes;
}

Dispatch::Dispatch(const Pass& pass, const ExpertRoutes& routes, std::string_view op, int64_t cols,
                   bool values)
    : pass_(pass), routes_(routes), op_(op), cols_(cols) {
  arrivals_ = pass.push_rows(kBuffer, routes.rows, cols);
  if (values) values_ = pass.push_f32(kBuffer, {routes.rows});
  // Alone in the group the rows are where they go.
  const bool leave = pass.groups->experts != nullptr;
  out_ =
      leave ? pass.push_rows(kBuffer, routes.sent, cols) : own_strip(pass, routes, arrivals_, cols);
  if (values) {
    out_values_ =
        leave ? pass.push_f32(kBuffer, {routes.sent}) : own_strip(pass, routes, values_, 1);
  }
}

void Dispatch::start() {
  comm::Communicator* group = pass_.groups->experts;
  if (!group) return;
  const tensor::Scope scope(pass_.arena);
  rows_ticket_ =
      group->start_all_to_all(op_, buffer_of(out_), span_of(times(pass_, routes_.send_rows, cols_)),
                              buffer_of(own_strip(pass_, routes_, arrivals_, cols_)),
                              span_of(times(pass_, routes_.receive_rows, cols_)));
  if (values_.empty()) return;
  values_ticket_ = group->start_all_to_all(
      "experts/weights", buffer_of(out_values_), span_of(routes_.send_rows),
      buffer_of(own_strip(pass_, routes_, values_, 1)), span_of(routes_.receive_rows));
}

void Dispatch::finish() {
  if (comm::Communicator* group = pass_.groups->experts) {
    group->wait(rows_ticket_);
    if (!values_.empty()) group->wait(values_ticket_);
  }
  if (strips(pass_) == 1) return;
  const tensor::Scope scope(pass_.arena);
  comm::Communicator& tensor = *pass_.groups->tensor;
  const comm::Ticket rows = tensor.start_all_gather(
      op_, buffer_of(own_strip(pass_, routes_, arrivals_, cols_)), buffer_of(arrivals_),
      span_of(times(pass_, routes_.strip_rows, cols_)));
  if (!values_.empty()) {
    tensor.all_gather("experts/weights", buffer_of(own_strip(pass_, routes_, values_, 1)),
                      buffer_of(values_), span_of(routes_.strip_rows));
  }
  tensor.wait(rows);
}

Combine::Combine(const Pass& pass, const ExpertRoutes& routes, std::string_view op,
                 const tensor::Tensor& room, bool values)
    : pass_(pass), routes_(routes), op_(op), cols_(room.shape[1]) {
  const int64_t cols = cols_;
  const bool leave = pass.groups->experts != nullptr;
  DSV3_CHECK(room.shape[0] >= std::max(routes.rows, routes.sent));
  in_ = pass.push_rows(kBuffer, routes.rows, cols);
  // Sums are made in the own part of what is summed.
  mine_ = own_strip(pass, routes, in_, cols);
  back_ = leave ? tensor::Tensor{room.data, room.dtype, {routes.sent, cols}} : mine_;
  if (!values) return;
  in_values_ = pass.push_f32(kBuffer, {routes.rows});
  mine_values_ = own_strip(pass, routes, in_values_, 1);
  back_values_ = leave ? pass.push_f32(kBuffer, {routes.sent}) : mine_values_;
}

void Combine::start() {
  const tensor::Scope scope(pass_.arena);
  const bool values = !in_values_.empty();
  if (strips(pass_) > 1) {
    comm::Communicator& tensor = *pass_.groups->tensor;
    const comm::Ticket rows = tensor.start_reduce_scatter(
        op_, buffer_of(in_), buffer_of(mine_), span_of(times(pass_, routes_.strip_rows, cols_)),
        comm::Reduce::kSum);
    if (values) {
      tensor.reduce_scatter("experts/weights", buffer_of(in_values_), buffer_of(mine_values_),
                            span_of(routes_.strip_rows));
    }
    tensor.wait(rows);
  }
  comm::Communicator* group = pass_.groups->experts;
  if (!group) return;
  rows_ticket_ = group->start_all_to_all(
      op_, buffer_of(mine_), span_of(times(pass_, routes_.receive_rows, cols_)), buffer_of(back_),
      span_of(times(pass_, routes_.send_rows, cols_)));
  if (!values) return;
  values_ticket_ = group->start_all_to_all("experts/weights", buffer_of(mine_values_),
                                           span_of(routes_.receive_rows), buffer_of(back_values_),
                                           span_of(routes_.send_rows));
}

void Combine::finish() {
  comm::Communicator* group = pass_.groups->experts;
  if (!group) return;
  group->wait(rows_ticket_);
  if (!in_values_.empty()) group->wait(values_ticket_);
}

}  // namespace dsv3::model
