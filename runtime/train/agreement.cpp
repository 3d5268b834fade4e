// See agreement.h.
#include "runtime/train/agreement.h"

#include <array>
#include <cstdint>

namespace dsv3::train {
namespace {

constexpr int64_t kDiskTimeoutMs = 3'600'000;

}  // namespace

Requests agree_on_requests(Session& session, const Requests& own) {
  if (!session.groups->world) return own;
  std::array<int64_t, 2> flags = {own.stop, own.checkpoint};
  session.groups->world->all_reduce("requests", {flags.data(), flags.size(), DType::kI64},
                                    comm::Reduce::kMax);
  return {flags[0] != 0, flags[1] != 0};
}

void wait_for_rank_0(Session& session, std::string_view what) {
  if (!session.groups->world) return;
  session.groups->world->set_timeout_ms(kDiskTimeoutMs);
  session.groups->world->barrier(what);
  session.groups->world->set_timeout_ms(0);
}

std::string share_text(Session& session, const std::string& text) {
  if (!session.groups->world) return text;
  wait_for_rank_0(session, "choosing a checkpoint");
  auto size = static_cast<int64_t>(text.size());
  session.groups->world->broadcast("length of the checkpoint's path", {&size, 1, DType::kI64}, 0);
  // A byte in each element: paths are short, and the communicator has no smaller type.
  std::vector<int32_t> letters(text.begin(), text.end());
  letters.resize(static_cast<size_t>(size));
  session.groups->world->broadcast("the checkpoint's path", {letters.data(), size, DType::kI32}, 0);
  return {letters.begin(), letters.end()};
}

double sum_over_ranks(Session& session, double value) {
  if (session.groups->world) {
    session.groups->world->all_reduce("rates", {&value, 1, DType::kF64}, comm::Reduce::kSum);
  }
  return value;
}

}  // namespace dsv3::train
