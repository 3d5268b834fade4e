// SentencePiece behind the Tokenizer interface: its only home.
//
// Our models keep text as it is: identity normalisation, no added or removed spaces, bytes for what
// the vocabulary lacks, and a newline as a piece of its own (so that text may be encoded line by
// line with the same result).
#include <fmt/format.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "base/file.h"
#include "runtime/data/sentencepiece_check.h"
#include "runtime/data/tokenizer.h"

namespace dsv3::data {
namespace {

// Texts above this are encoded in pieces that end with a newline: SentencePiece's time and memory
// grow with the text.
constexpr size_t kEncodeBytesMax = size_t{1} << 18;

Status from_sentencepiece(const char* what, const sentencepiece::util::Status& status) {
  return Status(Code::kInvalid, fmt::format("{}: {}", what, status.ToString()));
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> create(const std::string& model_bytes) {
    if (const std::string fault = sentencepiece_fault(model_bytes); !fault.empty())
      return Status(Code::kInvalid, "not a SentencePiece model: " + fault);
    auto tokenizer = std::make_unique<SentencePieceTokenizer>();
    try {
      const auto status = tokenizer->processor_.LoadFromSerializedProto(model_bytes);
      if (!status.ok()) return from_sentencepiece("not a SentencePiece model", status);
    } catch (const std::exception& error) {  // of its tries, for a piece that they can't hold
      return Status(Code::kInvalid, fmt::format("not a SentencePiece model: {}", error.what()));
    }
    tokenizer->eod_ = tokenizer->processor_.eos_id();
    if (tokenizer->eod_ < 0) {
      return Status(Code::kInvalid, "the SentencePiece model has no end-of-text piece (eos_id)",
                    "train it with an eos_id, or let `data prepare` train one");
    }
    return std::unique_ptr<Tokenizer>(std::move(tokenizer));
  }

  int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  int32_t eod() const override { return eod_; }

  Status encode(std::string_view text, std::vector<int32_t>& ids) const override {
    std::vector<int> piece_ids;
    while (!text.empty()) {
      size_t length = text.size();
      if (length > kEncodeBytesMax) {
        const size_t newline = text.find('\n', kEncodeBytesMax);
        if (newline != std::string_view::npos) length = newline + 1;
      }
      const auto status = processor_.Encode({text.data(), length}, &piece_ids);
      if (!status.ok()) return from_sentencepiece("cannot encode", status);
      ids.insert(ids.end(), piece_ids.begin(), piece_ids.end());
      text.remove_prefix(length);
    }
    return {};
  }

  Result<std::string> decode(std::span<const int32_t> ids) const override {
    std::vector<int> piece_ids;
    piece_ids.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return Status(Code::kInvalid,
                      fmt::format("token {} is outside the vocabulary of {}", id, vocab_size()));
      }
      if (id != eod_) piece_ids.push_back(id);
    }
    std::string text;
    const auto status = processor_.Decode(piece_ids, &text);
    if (!status.ok()) return from_sentencepiece("cannot decode", status);
    return text;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  int32_t eod_ = -1;
};

// Hands texts to the trainer one by one, cut at newlines where they are long.
class TextIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit TextIterator(const std::function<bool(std::string_view&)>& next) : next_(next) {
    Next();
  }
  bool done() const override { return done_; }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }
  void Next() override {
    while (rest_.empty()) {
      if (!next_(rest_)) {
        done_ = true;
        return;
      }
    }
    // One sentence a line; the newline itself is a piece of its own and needs no training.
    const size_t newline = std::min(rest_.find('\n'), rest_.size());
    value_.assign(rest_.substr(0, newline));
    rest_.remove_prefix(std::min(newline + 1, rest_.size()));
    if (value_.empty()) value_ = " ";
  }

 private:
  const std::function<bool(std::string_view&)>& next_;
  std::string_view rest_;
  std::string value_;
  bool done_ = false;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_sentencepiece(const std::string& model_bytes) {
  return SentencePieceTokenizer::create(model_bytes);
}

Result<std::string> train_sentencepiece(const TokenizerSpec& spec,
                                        const std::function<bool(std::string_view&)>& next) {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", spec.algorithm},
      {"vocab_size", std::to_string(spec.vocab_size)},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9999"},
      {"user_defined_symbols", "\n"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      {"max_sentence_length", std::to_string(1 << 20)},
      {"num_threads", "2"},  // a fixed number: the same text gives the same model on every machine
      {"minloglevel", "2"},
  };
  TextIterator iterator(next);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  if (!status.ok()) {
    return Status(
        Code::kInvalid,
        fmt::format("cannot train a vocabulary of {}: {}", spec.vocab_size, status.ToString()),
        "it must be large enough for every character of the text and small enough for the text to "
        "fill");
  }
  return model;
}

}  // namespace dsv3::data
