// See rank_text.h. The communicator's smallest type has 4 bytes: texts travel padded.
#include "runtime/train/rank_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace dsv3::train {
namespace {

constexpr int64_t kDiskTimeoutMs = 3'600'000;
constexpr int64_t kWordBytes = sizeof(int32_t);

int64_t words_of(int64_t bytes) {
  return (bytes + kWordBytes - 1) / kWordBytes;
}

std::vector<int32_t> to_words(const std::string& text) {
  std::vector<int32_t> words(static_cast<size_t>(words_of(static_cast<int64_t>(text.size()))));
  if (!text.empty()) std::memcpy(words.data(), text.data(), text.size());
  return words;
}

std::string to_text(const int32_t* words, int64_t bytes) {
  return {reinterpret_cast<const char*>(words), static_cast<size_t>(bytes)};
}

// The status of rank `root`, whose code all know to be this one.
Status share(comm::Communicator& world, std::string_view what, const Status& own, int root,
             Code code) {
  const std::string message = broadcast_text(world, what, own.message(), root);
  const std::string hint = broadcast_text(world, what, own.hint(), root);
  return Status(code, message, hint);
}

}  // namespace

DiskDeadline::DiskDeadline(comm::Communicator& world) : world_(world) {
  world_.set_timeout_ms(kDiskTimeoutMs);
}
DiskDeadline::~DiskDeadline() {
  world_.set_timeout_ms(0);
}

std::string broadcast_text(comm::Communicator& world, std::string_view what,
                           const std::string& text, int root) {
  const DiskDeadline deadline(world);
  auto bytes = static_cast<int64_t>(text.size());
  world.broadcast(what, {&bytes, 1, DType::kI64}, root);
  std::vector<int32_t> words = to_words(text);
  words.resize(static_cast<size_t>(words_of(bytes)));
  world.broadcast(what, {words.data(), words_of(bytes), DType::kI32}, root);
  return to_text(words.data(), bytes);
}

std::vector<std::string> gather_texts(comm::Communicator& world, std::string_view what,
                                      const std::string& text) {
  const DiskDeadline deadline(world);
  const auto ranks = static_cast<size_t>(world.size());
  const auto own_bytes = static_cast<int64_t>(text.size());
  std::vector<int64_t> bytes(ranks), send(ranks, 0), receive(ranks, 0);
  const std::vector<int64_t> ones(ranks, 1);
  world.all_gather(what, {&own_bytes, 1, DType::kI64},
                   {bytes.data(), static_cast<int64_t>(ranks), DType::kI64}, ones);
  const std::vector<int32_t> own = to_words(text);
  send[0] = static_cast<int64_t>(own.size());
  int64_t total = 0;
  for (size_t rank = 0; world.rank() == 0 && rank < ranks; ++rank)
    total += receive[rank] = words_of(bytes[rank]);
  std::vector<int32_t> all(static_cast<size_t>(total));
  world.all_to_all(what, {own.data(), send[0], DType::kI32}, send, {all.data(), total, DType::kI32},
                   receive);
  std::vector<std::string> texts;
  int64_t at = 0;
  for (size_t rank = 0; world.rank() == 0 && rank < ranks; ++rank) {
    texts.push_back(to_text(all.data() + at, bytes[rank]));
    at += receive[rank];
  }
  return texts;
}

Status agree(comm::Communicator& world, std::string_view what, const Status& own) {
  const DiskDeadline deadline(world);
  std::vector<int64_t> codes(static_cast<size_t>(world.size()));
  const std::vector<int64_t> ones(codes.size(), 1);
  const auto code = own.ok() ? int64_t{0} : static_cast<int64_t>(own.code());
  world.all_gather(what, {&code, 1, DType::kI64},
                   {codes.data(), static_cast<int64_t>(codes.size()), DType::kI64}, ones);
  const auto failed = std::find_if(codes.begin(), codes.end(), [](int64_t c) { return c != 0; });
  if (failed == codes.end()) return {};
  const int root = static_cast<int>(failed - codes.begin());
  const Status shared = share(world, what, own, root, static_cast<Code>(*failed));
  return Status(shared.code(), fmt::format("rank {}: {}", root, shared.message()), shared.hint());
}

Status broadcast_status(comm::Communicator& world, std::string_view what, const Status& status) {
  const DiskDeadline deadline(world);
  auto code = status.ok() ? int64_t{0} : static_cast<int64_t>(status.code());
  world.broadcast(what, {&code, 1, DType::kI64}, 0);
  if (code == 0) return {};
  return share(world, what, status, 0, static_cast<Code>(code));
}

}  // namespace dsv3::train
