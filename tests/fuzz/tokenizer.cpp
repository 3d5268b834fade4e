// Fuzzes a SentencePiece model: loading it, and text through what was loaded.
//
// Law (tokenizer.h): a model that loads encodes any text into ids of its vocabulary, which decode.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/data/tokenizer.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_tokenizer(std::string_view bytes) {
  const auto tokenizer = data::load_sentencepiece(std::string(bytes));
  if (!tokenizer.ok()) return Verdict::kRefused;
  const int64_t vocab_size = (*tokenizer)->vocab_size();
  DSV3_CHECK((*tokenizer)->eod() >= 0 && (*tokenizer)->eod() < vocab_size);
  for (const std::string_view text :
       {"", "a", "the cat  sat\non the\tmat", "\xE2\x96\x81\xC3\xA4 \xFF\xC0 \xF0\x9F\x90\x88"}) {
    std::vector<int32_t> ids;
    if (!(*tokenizer)->encode(text, ids).ok()) continue;
    for (const int32_t id : ids) DSV3_CHECK(id >= 0 && id < vocab_size);
    DSV3_CHECK((*tokenizer)->decode(ids).ok());
  }
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
