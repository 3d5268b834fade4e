// Text to token ids and back: bytes, or a SentencePiece model (trained here or brought along).
//
// Law: decode(encode(text)) == text for every UTF-8 text, newlines, tabs and runs of spaces
// included (of our own models; the one exception is U+2581, SentencePiece's own mark for a space).
// SentencePiece is confined to sentencepiece.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dsv3::data {

// Const calls are thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // Ids are in [0, vocab_size()).
  virtual int64_t vocab_size() const = 0;
  // The end-of-document id; never the result of encoding text.
  virtual int32_t eod() const = 0;
  // Appends the ids of `text` (without eod) to `ids`.
  virtual Status encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
  // The text of ids; eod becomes nothing. kInvalid for an id outside the vocabulary.
  virtual Result<std::string> decode(std::span<const int32_t> ids) const = 0;
};

// What `--tokenizer` and data.tokenizer say.
struct TokenizerSpec {
  enum class Kind { kByte, kSentencePieceTrain, kSentencePieceFile };
  Kind kind = Kind::kByte;
  std::string algorithm;   // bpe | unigram (training)
  int64_t vocab_size = 0;  // training
  std::string path;        // an existing model
};

// Reads "byte", "sentencepiece:bpe:8192", "sentencepiece:unigram:N", "sentencepiece:FILE" or
// "FILE.model".
Result<TokenizerSpec> parse_tokenizer_spec(std::string_view text);

// 256 bytes and eod = 256.
std::unique_ptr<Tokenizer> make_byte_tokenizer();
// A SentencePiece model from its file's bytes; kInvalid when it isn't one or has no end-of-text
// piece.
Result<std::unique_ptr<Tokenizer>> load_sentencepiece(const std::string& model_bytes);
// Trains on the texts that `next` hands out (false ends; a view lives until the next call) and
// returns the model file's bytes. Deterministic. kInvalid when the text is too small for the
// vocabulary.
Result<std::string> train_sentencepiece(const TokenizerSpec& spec,
                                        const std::function<bool(std::string_view&)>& next);
// The tokenizer of a prepared dataset: PREFIX.tokenizer.model, or bytes where PREFIX.json says so.
Result<std::unique_ptr<Tokenizer>> open_dataset_tokenizer(const std::string& prefix);

}  // namespace dsv3::data
