// PREFIX.json as written and compared by prepare(); readers need prepare.h only.
//
// Law: the recipe (options and checksums of what went in) decides alone whether a dataset is up to
// date.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/data/prepare.h"

namespace dsv3::data {

struct Source {
  std::string path;
  int64_t bytes = 0;
  std::string checksum;  // base/hash.h
};

// The recipe as JSON text; `model_checksum` is that of an existing tokenizer model, "" otherwise.
std::string make_recipe(const PrepareOptions& options, const std::vector<Source>& sources,
                        const std::string& model_checksum);
// True when PREFIX.json is there and was made by this recipe.
bool same_recipe(const std::string& prefix, const std::string& recipe);
// Writes PREFIX.json atomically.
Status write_dataset_info(const std::string& prefix, const DatasetInfo& info,
                          const std::string& recipe);

}  // namespace dsv3::data
