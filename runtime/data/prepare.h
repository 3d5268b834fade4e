// `dsv3ctl data prepare`: text files in, a token dataset out.
//
// Law: the same inputs and options give the same bytes; PREFIX.json is written last and names the
// checksums of what went in, so a run that finds it up to date does nothing, and one that was
// interrupted starts again. Writes PREFIX.bin, PREFIX.idx, PREFIX.tokenizer.model (SentencePiece
// only) and PREFIX.json (FORMAT.md).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace dsv3::data {

// How a text file is cut into documents.
enum class DocumentSplit {
  kAuto,        // *.jsonl: jsonl, else paragraphs
  kParagraphs,  // at blank lines
  kLines,       // one a line
  kFiles,       // one a file
  kSeparator,   // at a string of the user's
  kJsonl,       // one JSON object a line, its "text"
};

// Reads "auto", "paragraphs", "lines", "files", "separator", "jsonl".
Result<DocumentSplit> parse_document_split(std::string_view text);
const char* document_split_name(DocumentSplit split);

struct PrepareOptions {
  std::vector<std::string> inputs;                   // text files, read in this order
  std::string tokenizer = "sentencepiece:bpe:8192";  // parse_tokenizer_spec()
  std::string prefix;                                // PREFIX of the outputs; its folder is created
  DocumentSplit documents = DocumentSplit::kAuto;
  std::string separator;                    // kSeparator
  int64_t sample_bytes = int64_t{6} << 20;  // text that a tokenizer is trained on, about
  int64_t seed = 1234;                      // picks that sample
  bool force = false;                       // build even when up to date
  // Told now and then: what is being done, and how far (bytes done, bytes in all).
  std::function<void(std::string_view phase, int64_t done_bytes, int64_t total_bytes)> progress;
};

// What PREFIX.json says of a dataset.
struct DatasetInfo {
  std::string tokenizer;  // as it was asked for
  int64_t num_documents = 0;
  int64_t num_tokens = 0;  // end-of-document tokens included
  int64_t vocab_size = 0;
  int32_t eod = 0;
  double unigram_entropy_nats = 0.0;   // of the token stream: −Σ p ln p
  int64_t input_bytes = 0;             // of text, after cutting into documents
  int64_t invalid_utf8_documents = 0;  // their bad bytes became U+FFFD (not with `byte`)
};

struct PrepareReport {
  DatasetInfo info;
  bool up_to_date = false;  // nothing had to be done
};

// Builds the dataset. kNotFound for a missing input, kInvalid for one without documents or bad
// options.
Result<PrepareReport> prepare(const PrepareOptions& options);
// Reads PREFIX.json; kNotFound where there is none (foreign Megatron data), kInvalid when it is not
// ours.
Result<DatasetInfo> read_dataset_info(const std::string& prefix);

}  // namespace dsv3::data
