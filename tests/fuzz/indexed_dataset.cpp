// Fuzzes Megatron's .idx, with the .bin that it points into.
//
// Law (indexed_dataset.h): after open() no read leaves the map; documents lie back to back from 0
// to num_tokens().
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "runtime/data/indexed_dataset.h"
#include "tests/fuzz/scratch.h"
#include "tests/fuzz/targets.h"

namespace dsv3::fuzz {

Verdict try_indexed_dataset(std::string_view bytes) {
  if (bytes.size() < 2) return Verdict::kRefused;
  const size_t wanted =
      static_cast<unsigned char>(bytes[0]) + 256u * static_cast<unsigned char>(bytes[1]);
  bytes.remove_prefix(2);
  const size_t idx_bytes = std::min(wanted, bytes.size());
  (void)put_file("d.idx", bytes.substr(0, idx_bytes));
  (void)put_file("d.bin", bytes.substr(idx_bytes));
  const auto dataset = data::IndexedDataset::open(scratch_folder() + "/d");
  if (!dataset.ok()) return Verdict::kRefused;
  DSV3_CHECK(dataset->document_begin(0) == 0 || dataset->num_documents() == 0);
  DSV3_CHECK(dataset->document_begin(dataset->num_documents()) == dataset->num_tokens());
  for (int64_t d = 0; d < dataset->num_documents(); ++d) {
    const int64_t begin = dataset->document_begin(d), end = dataset->document_begin(d + 1);
    DSV3_CHECK(begin <= end);
    std::vector<int32_t> tokens(static_cast<size_t>(end - begin));
    if (!dataset->read(begin, 50'000, tokens).ok()) continue;
    for (const int32_t token : tokens) DSV3_CHECK(token >= 0 && token < 50'000);
  }
  return Verdict::kAccepted;
}

}  // namespace dsv3::fuzz
