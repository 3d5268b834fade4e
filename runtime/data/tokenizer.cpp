// The byte tokenizer, and which tokenizer a word of the command line means; SentencePiece is in
// sentencepiece.cpp.
#include "runtime/data/tokenizer.h"

#include <fmt/format.h>

#include <charconv>

#include "base/file.h"
#include "base/text.h"
#include "runtime/data/prepare.h"

namespace dsv3::data {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  int64_t vocab_size() const override { return 257; }
  int32_t eod() const override { return 256; }

  Status encode(std::string_view text, std::vector<int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return {};
  }

  Result<std::string> decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 0 || id > 256) {
        return Status(Code::kInvalid, fmt::format("token {} is outside the vocabulary of 257", id));
      }
      if (id < 256) text += static_cast<char>(id);
    }
    return text;
  }
};

Status bad_spec(std::string_view text, const std::string& why) {
  return Status(Code::kInvalid, fmt::format("tokenizer '{}': {}", text, why),
                "say 'byte', 'sentencepiece:bpe:8192' or the path of a SentencePiece model");
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_spec(std::string_view text) {
  constexpr std::string_view kScheme = "sentencepiece:";
  constexpr int64_t kVocabMin = 260;  // 256 bytes, unknown, end of text, newline and one letter
  constexpr int64_t kVocabMax = 1'000'000;
  TokenizerSpec spec;
  if (text == "byte") return spec;
  if (text.starts_with(kScheme)) {
    const std::string_view rest = text.substr(kScheme.size());
    const size_t colon = rest.find(':');
    const std::string_view algorithm = rest.substr(0, colon);
    if (algorithm == "bpe" || algorithm == "unigram") {
      spec.kind = TokenizerSpec::Kind::kSentencePieceTrain;
      spec.algorithm = algorithm;
      const std::string_view size = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
      const auto [end, error] =
          std::from_chars(size.data(), size.data() + size.size(), spec.vocab_size);
      if (size.empty() || error != std::errc() || end != size.data() + size.size()) {
        return bad_spec(text, fmt::format("'{}' is not a vocabulary size", size));
      }
      if (spec.vocab_size < kVocabMin || spec.vocab_size > kVocabMax) {
        return bad_spec(text, fmt::format("a vocabulary of {} is not within {} to {}", size,
                                          kVocabMin, kVocabMax));
      }
      return spec;
    }
    text = rest;
  } else if (!text.ends_with(".model")) {
    return bad_spec(text, "unknown");
  }
  if (text.empty()) return bad_spec(text, "no path");
  spec.kind = TokenizerSpec::Kind::kSentencePieceFile;
  spec.path = text;
  return spec;
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

Result<std::unique_ptr<Tokenizer>> open_dataset_tokenizer(const std::string& prefix) {
  DSV3_ASSIGN_OR_RETURN(const DatasetInfo info, read_dataset_info(prefix));
  DSV3_ASSIGN_OR_RETURN(const TokenizerSpec spec, parse_tokenizer_spec(info.tokenizer));
  if (spec.kind == TokenizerSpec::Kind::kByte) return make_byte_tokenizer();
  DSV3_ASSIGN_OR_RETURN(const std::string model,
                        read_file(prefix + ".tokenizer.model", int64_t{1} << 30));
  return load_sentencepiece(model);
}

}  // namespace dsv3::data
