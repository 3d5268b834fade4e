// The few fields of ModelProto (protobuf) that are looked at, and the walk over their table (a
// Darts double array: github.com/s-yata/darts-clone).
#include "runtime/data/sentencepiece_check.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>

namespace dsv3::data {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint64_t kPieces = 1;
constexpr uint64_t kPieceText = 1;
constexpr uint64_t kNormalizer = 3;
constexpr uint64_t kDenormalizer = 5;
constexpr uint64_t kCharsmap = 2;

std::optional<uint64_t> take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// Hands every length-delimited field of a message to `take`, whose fault ends the walk. Groups,
// which no writer makes, are a fault.
std::string walk(std::string_view message,
                 const std::function<std::string(uint64_t field, std::string_view bytes)>& take) {
  while (!message.empty()) {
    const auto tag = take_varint(message);
    const int kind = tag ? static_cast<int>(*tag & 7) : -1;
    const auto number = kind == 0 || kind == 2 ? take_varint(message) : std::optional<uint64_t>(0);
    if (!tag || !number) return "its bytes are no protobuf message";
    size_t skipped = 0;
    switch (kind) {
      case 0:
        continue;
      case 1:
        skipped = 8;
        break;
      case 5:
        skipped = 4;
        break;
      case 2:
        if (*number > message.size()) return "it ends within a field";
        if (std::string fault = take(*tag >> 3, message.substr(0, *number)); !fault.empty())
          return fault;
        skipped = *number;
        break;
      default:
        return "its bytes are no protobuf message";
    }
    if (skipped > message.size()) return "it ends within a field";
    message.remove_prefix(skipped);
  }
  return "";
}

uint32_t load_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The table: the trie's bytes, the trie, the replacements (ended by zeros). A look-up goes from
// unit i to i ^ offset, and from there to any of the 256 units around it; a leaf's value is a
// position among the replacements.
std::string charsmap_fault(std::string_view table) {
  if (table.empty()) return "";
  const std::string fault = "its normalisation table is damaged";
  if (table.size() < 4) return fault;
  const size_t trie_bytes = load_u32(table, 0);
  table.remove_prefix(4);
  if (trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes >= table.size()) return fault;
  const std::string_view replacements = table.substr(trie_bytes);
  if (replacements.back() != '\0') return fault;
  const size_t units = trie_bytes / 4;
  for (size_t i = 0; i < units; ++i) {
    const uint32_t unit = load_u32(table, 4 * i);
    if ((unit >> 31) != 0) continue;  // a value: no look-up goes on from it
    const size_t next = i ^ (size_t{unit >> 10} << ((unit & 0x200u) >> 6));
    if ((next | 0xFF) >= units) return fault;
    const bool has_leaf = ((unit >> 8) & 1) != 0;
    if (has_leaf && (load_u32(table, 4 * next) & 0x7FFFFFFFu) >= replacements.size()) return fault;
  }
  return "";
}

std::string piece_fault(uint64_t field, std::string_view bytes) {
  if (field == kPieceText && bytes.find('\0') != std::string_view::npos)
    return "one of its pieces holds a zero byte";
  return "";
}

}  // namespace

std::string sentencepiece_fault(std::string_view model_bytes) {
  return walk(model_bytes, [](uint64_t field, std::string_view bytes) -> std::string {
    if (field == kPieces) return walk(bytes, piece_fault);
    if (field != kNormalizer && field != kDenormalizer) return "";
    return walk(bytes, [](uint64_t inner, std::string_view table) {
      return inner == kCharsmap ? charsmap_fault(table) : std::string();
    });
  });
}

}  // namespace dsv3::data
