// PREFIX.json: what a prepared dataset says of itself, and whether it still is what was asked for.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/file.h"
#include "base/json_bounds.h"
#include "runtime/data/dataset_info.h"

namespace dsv3::data {
namespace {

constexpr int kFormatVersion = 1;
constexpr std::string_view kFormat = "dsv3ctl dataset";

using Json = nlohmann::json;                 // what is read
using OrderedJson = nlohmann::ordered_json;  // what is written

// A count. The library itself would round 2.5 and take 1e300 for any number at all.
int64_t count_at(const Json& json, const char* key) {
  const Json& value = json.at(key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX)
    throw std::out_of_range(fmt::format("{} is not a count", key));
  return value.get<int64_t>();
}

// The parsed PREFIX.json, or why it is none.
Result<Json> read_metadata(const std::string& prefix) {
  const std::string path = prefix + ".json";
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  constexpr int64_t kValuesMax = 4'000'000;  // three for each source
  if (json_bounds(text).values > kValuesMax)
    return Status(Code::kInvalid, fmt::format("'{}' was not written by data prepare", path));
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("format") || json["format"] != Json(kFormat)) {
    return Status(Code::kInvalid, fmt::format("'{}' was not written by data prepare", path));
  }
  if (!json.contains("format_version") || json["format_version"] != Json(kFormatVersion)) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' has a format version other than {}", path, kFormatVersion));
  }
  return json;
}

}  // namespace

Result<DatasetInfo> read_dataset_info(const std::string& prefix) {
  DSV3_ASSIGN_OR_RETURN(const Json json, read_metadata(prefix));
  DatasetInfo info;
  try {
    json.at("tokenizer").get_to(info.tokenizer);
    info.num_documents = count_at(json, "documents");
    info.num_tokens = count_at(json, "tokens");
    info.vocab_size = count_at(json, "vocab_size");
    const int64_t eod = count_at(json, "eod");
    if (eod > INT32_MAX) throw std::out_of_range("eod is no token");
    info.eod = static_cast<int32_t>(eod);
    json.at("unigram_entropy_nats").get_to(info.unigram_entropy_nats);
    info.input_bytes = count_at(json, "input_bytes");
    info.invalid_utf8_documents = count_at(json, "invalid_utf8_documents");
  } catch (const std::exception& error) {
    return Status(Code::kInvalid, fmt::format("'{}.json': {}", prefix, error.what()));
  }
  return info;
}

Status write_dataset_info(const std::string& prefix, const DatasetInfo& info,
                          const std::string& recipe) {
  OrderedJson json;
  json["format"] = kFormat;
  json["format_version"] = kFormatVersion;
  json["tokenizer"] = info.tokenizer;
  json["documents"] = info.num_documents;
  json["tokens"] = info.num_tokens;
  json["vocab_size"] = info.vocab_size;
  json["eod"] = info.eod;
  json["unigram_entropy_nats"] = info.unigram_entropy_nats;
  json["input_bytes"] = info.input_bytes;
  json["invalid_utf8_documents"] = info.invalid_utf8_documents;
  json["recipe"] = OrderedJson::parse(recipe);
  return write_file(prefix + ".json", json.dump(2) + "\n");
}

std::string make_recipe(const PrepareOptions& options, const std::vector<Source>& sources,
                        const std::string& model_checksum) {
  OrderedJson recipe;
  recipe["tokenizer"] = options.tokenizer;
  if (!model_checksum.empty()) recipe["tokenizer_model_xxh3_128"] = model_checksum;
  recipe["documents"] = document_split_name(options.documents);
  recipe["separator"] = options.separator;
  recipe["sample_bytes"] = options.sample_bytes;
  recipe["seed"] = options.seed;
  recipe["sources"] = OrderedJson::array();
  for (const Source& source : sources) {
    recipe["sources"].push_back(
        {{"path", source.path}, {"bytes", source.bytes}, {"xxh3_128", source.checksum}});
  }
  // A separator need not be UTF-8.
  return recipe.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

bool same_recipe(const std::string& prefix, const std::string& recipe) {
  const auto json = read_metadata(prefix);
  return json.ok() && json->contains("recipe") && (*json)["recipe"] == Json::parse(recipe);
}

}  // namespace dsv3::data
