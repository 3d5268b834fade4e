// The few fields of ModelProto (protobuf) that are looked at, and the walk over their table (a
// Darts double array: github.com/s-yata/darts-clone).
#include "runtime/data/sentencepiece_check.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

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

// What a look-up meets at most on its way: SentencePiece keeps so many results, and reads as many
// as there were.
constexpr int kMostRules = 32;

// The trie's units. A look-up goes from a unit to its base, and from there by each byte of the text
// to the unit base ^ byte, where that unit bears the byte as its label; a unit with a leaf has its
// value at its base.
class Trie {
 public:
  Trie(std::string_view units, size_t replacement_bytes)
      : units_(units), count_(units.size() / 4), replacement_bytes_(replacement_bytes) {}

  // Every step of every look-up stays within the table, and ends.
  bool sound() const {
    for (size_t i = 0; i < count_; ++i) {
      // The root is followed whatever it is; a value elsewhere never.
      if (i != 0 && is_value(i)) continue;
      if ((base(i) | 0xFF) >= count_) return false;
      if (has_leaf(i) && (unit(base(i)) & 0x7FFFFFFFu) >= replacement_bytes_) return false;
    }
    return most_rules(base(0)) <= kMostRules;
  }

 private:
  uint32_t unit(size_t i) const { return load_u32(units_, 4 * i); }
  bool is_value(size_t i) const { return (unit(i) >> 31) != 0; }
  bool has_leaf(size_t i) const { return ((unit(i) >> 8) & 1) != 0; }
  size_t base(size_t i) const { return i ^ (size_t{unit(i) >> 10} << ((unit(i) & 0x200u) >> 6)); }

  // The most leaves on one way from a base, more than kMostRules where a way turns in a circle.
  // Without recursion: a hostile way is as long as the table.
  int most_rules(size_t from) const {
    enum : int16_t { kUnknown = -1, kOpen = -2 };
    std::vector<int16_t> most(count_, kUnknown);
    struct Visit {
      size_t base;
      unsigned byte = 0;
      int best = 0;
    };
    std::vector<Visit> way{{from}};
    most[from] = kOpen;
    for (;;) {
      Visit& here = way.back();
      if (here.byte == 256) {
        const int best = here.best;
        most[here.base] = static_cast<int16_t>(best);
        if (best > kMostRules || way.size() == 1) return best;
        way.pop_back();
        continue;
      }
      const size_t child = here.base ^ here.byte;
      if ((unit(child) & 0x800000FFu) != here.byte) {
        ++here.byte;
        continue;
      }
      const int16_t below = most[base(child)];
      if (below == kOpen) return kMostRules + 1;
      if (below == kUnknown) {
        most[base(child)] = kOpen;
        way.push_back({base(child)});
        continue;
      }
      here.best = std::max(here.best, below + (has_leaf(child) ? 1 : 0));
      ++here.byte;
    }
  }

  std::string_view units_;
  size_t count_;
  size_t replacement_bytes_;
};

// The table: the trie's bytes, the trie, the replacements (ended by zeros).
std::string charsmap_fault(std::string_view table) {
  if (table.empty()) return "";
  const std::string fault = "its normalisation table is damaged";
  if (table.size() < 4) return fault;
  const size_t trie_bytes = load_u32(table, 0);
  table.remove_prefix(4);
  if (trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes >= table.size()) return fault;
  const std::string_view replacements = table.substr(trie_bytes);
  if (replacements.back() != '\0') return fault;
  return Trie(table.substr(0, trie_bytes), replacements.size()).sound() ? "" : fault;
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
