// Megatron's indexed dataset (PREFIX.idx + PREFIX.bin): the token format that existing corpora come
// in.
//
// Law: nothing in the two files is trusted. open() checks every length, pointer and boundary once,
// so that a read afterwards cannot leave the map; every complaint names the file and what is wrong
// with it. The arrays of the .idx start at byte 34 and are never aligned, so they are read by
// memcpy. The format: FORMAT.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_writer.h"
#include "base/status.h"

namespace dsv3::data {

// The .idx file's type codes: frozen by the format. Token data is u8, u16, i8, i16, i32 or i64.
enum class TokenType : uint8_t {
  kU8 = 1,
  kI8 = 2,
  kI16 = 3,
  kI32 = 4,
  kI64 = 5,
  kF64 = 6,
  kF32 = 7,
  kU16 = 8
};

// Bytes of one element; 0 for a code that does not exist.
int64_t token_type_bytes(TokenType type);
// What Megatron's writer picks: u16 for vocabularies below 65,500, else i32.
TokenType token_type_for_vocab(int64_t vocab_size);

// A dataset, memory-mapped and checked. Documents lie back to back: document d is the tokens
// [document_begin(d), document_begin(d + 1)) of one flat stream. Move-only; const calls are
// thread-safe.
class IndexedDataset {
 public:
  // Opens `prefix`.idx and `prefix`.bin; kNotFound when one is absent, kInvalid when a check fails.
  static Result<IndexedDataset> open(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  TokenType token_type() const { return type_; }
  int64_t num_sequences() const { return num_sequences_; }
  int64_t num_documents() const { return num_documents_; }
  int64_t num_tokens() const { return num_tokens_; }
  // First token of document d in the flat stream; d in [0, num_documents()], the last being
  // num_tokens().
  int64_t document_begin(int64_t document) const;
  // Copies the tokens [begin, begin + out.size()), which must lie in [0, num_tokens()]. kInvalid,
  // naming file and position, for a token outside [0, vocab_size). Allocates nothing unless it
  // fails.
  Status read(int64_t begin, int64_t vocab_size, std::span<int32_t> out) const;

 private:
  std::string prefix_;
  MappedFile index_;
  MappedFile tokens_;
  TokenType type_ = TokenType::kI32;
  int64_t num_sequences_ = 0;
  int64_t num_documents_ = 0;
  int64_t num_tokens_ = 0;
  int64_t first_byte_ = 0;  // where the stream starts in the .bin
};

// Writes a dataset, one sequence per document. The .idx is written last: where it is, the .bin is
// whole.
class IndexedDatasetBuilder {
 public:
  static Result<IndexedDatasetBuilder> create(const std::string& prefix, TokenType type);
  // Appends a document (the end-of-document token included, if there is one). kInvalid for a token
  // that the type cannot hold, or more than 2^31 − 1 tokens.
  Status add_document(std::span<const int32_t> tokens);
  // Publishes both files; nothing is visible before.
  Status finish();
  int64_t num_documents() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  std::string prefix_;
  TokenType type_ = TokenType::kI32;
  FileWriter tokens_;
  std::vector<std::byte> buffer_;
  std::vector<int32_t> lengths_;
  int64_t num_tokens_ = 0;
};

}  // namespace dsv3::data
