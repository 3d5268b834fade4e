// The .idx/.bin reader and writer; the layout of the bytes is in FORMAT.md.
#include "runtime/data/indexed_dataset.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <utility>

namespace dsv3::data {
namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr int64_t kHeaderBytes = 34;  // magic 9 + version 8 + type 1 + two counts 16
constexpr uint64_t kVersion = 1;

// The value at a byte offset; the arrays of an .idx are never aligned.
template <typename T>
T load(std::span<const std::byte> bytes, int64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// The three arrays, as offsets into the .idx.
struct Layout {
  int64_t num_sequences = 0;
  int64_t num_boundaries = 0;  // documents + 1
  int64_t lengths_at() const { return kHeaderBytes; }
  int64_t pointers_at() const { return kHeaderBytes + 4 * num_sequences; }
  int64_t documents_at() const { return kHeaderBytes + 12 * num_sequences; }
  int64_t end() const { return documents_at() + 8 * num_boundaries; }
};

Status invalid(const std::string& path, const std::string& what) {
  return Status(Code::kInvalid, fmt::format("'{}' is not a usable Megatron index: {}", path, what));
}

Status check_header(const std::string& path, std::span<const std::byte> idx, TokenType* type,
                    Layout* layout) {
  const auto size = static_cast<int64_t>(idx.size());
  if (size < kHeaderBytes) {
    return invalid(path,
                   fmt::format("it has {} bytes, less than its header of {}", size, kHeaderBytes));
  }
  if (std::memcmp(idx.data(), kMagic, sizeof kMagic) != 0) {
    return invalid(path, "it does not begin with MMIDIDX");
  }
  if (const auto version = load<uint64_t>(idx, 9); version != kVersion) {
    return invalid(path, fmt::format("version {}, only {} is known", version, kVersion));
  }
  const auto code = load<uint8_t>(idx, 17);
  *type = static_cast<TokenType>(code);
  if (token_type_bytes(*type) == 0) return invalid(path, fmt::format("unknown type code {}", code));
  if (*type == TokenType::kF32 || *type == TokenType::kF64) {
    return invalid(path, fmt::format("type code {} is floating point, not tokens", code));
  }
  const auto sequences = load<uint64_t>(idx, 18);
  const auto boundaries = load<uint64_t>(idx, 26);
  // Bounded by the file's size first, so that no product below can overflow.
  if (sequences > static_cast<uint64_t>(size) || boundaries > static_cast<uint64_t>(size)) {
    return invalid(path,
                   fmt::format("{} sequences and {} document boundaries cannot fit into {} bytes",
                               sequences, boundaries, size));
  }
  layout->num_sequences = static_cast<int64_t>(sequences);
  layout->num_boundaries = static_cast<int64_t>(boundaries);
  // A multimodal writer adds one byte per sequence.
  if (size != layout->end() && size != layout->end() + layout->num_sequences) {
    return invalid(
        path, fmt::format("{} bytes, but {} sequences and {} document boundaries take {}", size,
                          sequences, boundaries, layout->end()));
  }
  if (boundaries == 0)
    return invalid(path, "no document boundaries (at least 1, the first being 0)");
  return {};
}

Status check_sequences(const std::string& path, std::span<const std::byte> idx,
                       const Layout& layout, int64_t token_bytes, int64_t bin_bytes) {
  int64_t expected = 0;
  for (int64_t s = 0; s < layout.num_sequences; ++s) {
    const auto length = load<int32_t>(idx, layout.lengths_at() + 4 * s);
    const auto pointer = load<int64_t>(idx, layout.pointers_at() + 8 * s);
    if (length < 0) return invalid(path, fmt::format("sequence {} has {} tokens", s, length));
    if (s == 0) expected = pointer;
    if (pointer != expected || pointer < 0 || pointer > bin_bytes) {
      return invalid(
          path, fmt::format("sequence {} begins at byte {}, expected {}", s, pointer, expected));
    }
    expected += int64_t{length} * token_bytes;
    if (expected > bin_bytes) {
      const std::string bin = path.substr(0, path.rfind(".idx")) + ".bin";
      return Status(
          Code::kInvalid,
          fmt::format("'{}' has {} bytes, but '{}' says that its sequence {} ends at byte {}", bin,
                      bin_bytes, path, s, expected),
          "it was cut short, or is another data set's: bring it back, or run 'dsv3ctl "
          "data prepare' again");
    }
  }
  return {};
}

Status check_documents(const std::string& path, std::span<const std::byte> idx,
                       const Layout& layout) {
  int64_t previous = 0;
  for (int64_t d = 0; d < layout.num_boundaries; ++d) {
    const auto boundary = load<int64_t>(idx, layout.documents_at() + 8 * d);
    if (d == 0 && boundary != 0)
      return invalid(path, fmt::format("the first document boundary is {}, not 0", boundary));
    if (boundary < previous || boundary > layout.num_sequences) {
      return invalid(path, fmt::format("document boundary {} is {}, expected {} to {}", d, boundary,
                                       previous, layout.num_sequences));
    }
    previous = boundary;
  }
  if (previous != layout.num_sequences) {
    return invalid(path, fmt::format("the last document boundary is {}, not the {} sequences",
                                     previous, layout.num_sequences));
  }
  return {};
}

// Widens tokens of one type; the index of the first outside [0, vocab_size), or −1.
template <typename T>
int64_t widen(const std::byte* from, int64_t vocab_size, std::span<int32_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    const auto wide = static_cast<int64_t>(value);
    if (wide < 0 || wide >= vocab_size) return static_cast<int64_t>(i);
    out[i] = static_cast<int32_t>(wide);
  }
  return -1;
}

int64_t widen_any(TokenType type, const std::byte* from, int64_t vocab_size,
                  std::span<int32_t> out) {
  switch (type) {
    case TokenType::kU8:
      return widen<uint8_t>(from, vocab_size, out);
    case TokenType::kI8:
      return widen<int8_t>(from, vocab_size, out);
    case TokenType::kI16:
      return widen<int16_t>(from, vocab_size, out);
    case TokenType::kU16:
      return widen<uint16_t>(from, vocab_size, out);
    case TokenType::kI32:
      return widen<int32_t>(from, vocab_size, out);
    case TokenType::kI64:
      return widen<int64_t>(from, vocab_size, out);
    case TokenType::kF32:
    case TokenType::kF64:
      break;
  }
  DSV3_CHECK(false, "open() admits no other type");
  return 0;
}

int64_t token_at(TokenType type, const std::byte* from) {
  switch (type) {
    case TokenType::kU8:
      return static_cast<uint8_t>(*from);
    case TokenType::kI8:
      return static_cast<int8_t>(*from);
    case TokenType::kI16:
      return load<int16_t>({from, 2}, 0);
    case TokenType::kU16:
      return load<uint16_t>({from, 2}, 0);
    case TokenType::kI32:
      return load<int32_t>({from, 4}, 0);
    default:
      return load<int64_t>({from, 8}, 0);
  }
}

// Largest token that a type holds and the runtime can carry.
int64_t token_max(TokenType type) {
  switch (type) {
    case TokenType::kU8:
      return 0xFF;
    case TokenType::kI8:
      return 0x7F;
    case TokenType::kI16:
      return 0x7FFF;
    case TokenType::kU16:
      return 0xFFFF;
    default:
      return std::numeric_limits<int32_t>::max();
  }
}

template <typename T>
void put(std::vector<std::byte>& bytes, T value) {
  const auto* from = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), from, from + sizeof value);
}

}  // namespace

int64_t token_type_bytes(TokenType type) {
  switch (type) {
    case TokenType::kU8:
    case TokenType::kI8:
      return 1;
    case TokenType::kI16:
    case TokenType::kU16:
      return 2;
    case TokenType::kI32:
    case TokenType::kF32:
      return 4;
    case TokenType::kI64:
    case TokenType::kF64:
      return 8;
  }
  return 0;
}

TokenType token_type_for_vocab(int64_t vocab_size) {
  return vocab_size < 65500 ? TokenType::kU16 : TokenType::kI32;
}

Result<IndexedDataset> IndexedDataset::open(const std::string& prefix) {
  const std::string idx_path = prefix + ".idx";
  const std::string bin_path = prefix + ".bin";
  IndexedDataset dataset;
  dataset.prefix_ = prefix;
  DSV3_ASSIGN_OR_RETURN(dataset.index_, MappedFile::open(idx_path));
  DSV3_ASSIGN_OR_RETURN(dataset.tokens_, MappedFile::open(bin_path));
  const auto idx = dataset.index_.bytes();
  const auto bin_bytes = static_cast<int64_t>(dataset.tokens_.bytes().size());
  Layout layout;
  DSV3_RETURN_IF_ERROR(check_header(idx_path, idx, &dataset.type_, &layout));
  const int64_t token_bytes = token_type_bytes(dataset.type_);
  DSV3_RETURN_IF_ERROR(check_sequences(idx_path, idx, layout, token_bytes, bin_bytes));
  DSV3_RETURN_IF_ERROR(check_documents(idx_path, idx, layout));
  dataset.num_sequences_ = layout.num_sequences;
  dataset.num_documents_ = layout.num_boundaries - 1;
  if (layout.num_sequences > 0) {
    const int64_t last = layout.num_sequences - 1;
    dataset.first_byte_ = load<int64_t>(idx, layout.pointers_at());
    const int64_t end = load<int64_t>(idx, layout.pointers_at() + 8 * last) +
                        int64_t{load<int32_t>(idx, layout.lengths_at() + 4 * last)} * token_bytes;
    dataset.num_tokens_ = (end - dataset.first_byte_) / token_bytes;
  }
  return dataset;
}

int64_t IndexedDataset::document_begin(int64_t document) const {
  DSV3_CHECK(document >= 0 && document <= num_documents_);
  const Layout layout{num_sequences_, num_documents_ + 1};
  const auto idx = index_.bytes();
  const auto sequence = load<int64_t>(idx, layout.documents_at() + 8 * document);
  if (sequence == num_sequences_) return num_tokens_;
  return (load<int64_t>(idx, layout.pointers_at() + 8 * sequence) - first_byte_) /
         token_type_bytes(type_);
}

Status IndexedDataset::read(int64_t begin, int64_t vocab_size, std::span<int32_t> out) const {
  DSV3_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= num_tokens_);
  DSV3_CHECK(vocab_size <= int64_t{1} << 31, "a token is an int32");
  if (out.empty()) return {};
  const int64_t token_bytes = token_type_bytes(type_);
  const std::byte* from = tokens_.bytes().data() + first_byte_ + begin * token_bytes;
  const int64_t bad = widen_any(type_, from, vocab_size, out);
  if (bad < 0) return {};
  return Status(
      Code::kInvalid,
      fmt::format("'{}.bin': token {} at position {} is outside the vocabulary of {}", prefix_,
                  token_at(type_, from + bad * token_bytes), begin + bad, vocab_size),
      "the data was made with another tokenizer, or model.vocab_size is too small");
}

Result<IndexedDatasetBuilder> IndexedDatasetBuilder::create(const std::string& prefix,
                                                            TokenType type) {
  DSV3_CHECK(token_type_bytes(type) > 0 && type != TokenType::kF32 && type != TokenType::kF64);
  IndexedDatasetBuilder builder;
  builder.prefix_ = prefix;
  builder.type_ = type;
  DSV3_ASSIGN_OR_RETURN(builder.tokens_, FileWriter::create(prefix + ".bin"));
  return builder;
}

Status IndexedDatasetBuilder::add_document(std::span<const int32_t> tokens) {
  if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return Status(Code::kInvalid,
                  fmt::format("document {} has {} tokens; the format allows 2147483647",
                              num_documents(), tokens.size()));
  }
  const int64_t largest = token_max(type_);
  buffer_.clear();
  for (const int32_t token : tokens) {
    if (token < 0 || token > largest) {
      return Status(Code::kInvalid, fmt::format("document {} has token {}; '{}.bin' holds 0 to {}",
                                                num_documents(), token, prefix_, largest));
    }
    switch (token_type_bytes(type_)) {
      case 1:
        put(buffer_, static_cast<uint8_t>(token));
        break;
      case 2:
        put(buffer_, static_cast<uint16_t>(token));
        break;
      case 4:
        put(buffer_, token);
        break;
      default:
        put(buffer_, static_cast<int64_t>(token));
        break;
    }
  }
  DSV3_RETURN_IF_ERROR(tokens_.append(buffer_));
  lengths_.push_back(static_cast<int32_t>(tokens.size()));
  num_tokens_ += static_cast<int64_t>(tokens.size());
  return {};
}

Status IndexedDatasetBuilder::finish() {
  std::vector<std::byte> idx;
  idx.reserve(static_cast<size_t>(kHeaderBytes) + 20 * lengths_.size() + 8);
  for (const char c : kMagic) idx.push_back(static_cast<std::byte>(c));
  put(idx, kVersion);
  put(idx, static_cast<uint8_t>(type_));
  put(idx, static_cast<uint64_t>(lengths_.size()));
  put(idx, static_cast<uint64_t>(lengths_.size() + 1));
  for (const int32_t length : lengths_) put(idx, length);
  int64_t pointer = 0;
  for (const int32_t length : lengths_) {
    put(idx, pointer);
    pointer += int64_t{length} * token_type_bytes(type_);
  }
  for (size_t d = 0; d <= lengths_.size(); ++d) put(idx, static_cast<int64_t>(d));
  DSV3_RETURN_IF_ERROR(tokens_.finish());
  return write_file(prefix_ + ".idx", {reinterpret_cast<const char*>(idx.data()), idx.size()});
}

}  // namespace dsv3::data
