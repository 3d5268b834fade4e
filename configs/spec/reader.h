// The walk over documents: every key is looked up in the field table, every fault is noted, then
// what nobody gave is filled in. Only for parse.cpp.
//
// Law: documents come in layers, FILE first; a later layer wins over an earlier one, within one
// layer a key is given once.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "configs/spec/document.h"
#include "configs/spec/field_table.h"
#include "configs/spec/parse.h"

namespace dsv3::spec {

class Reader {
 public:
  // `parsed` must outlive the reader. `hf`: the first document is a config.json.
  Reader(Parsed& parsed, bool hf) : p_(parsed), hf_(hf) {}

  // FILE itself. False when it is no mapping, or another family's config.json: nothing can be laid
  // over it.
  bool document(const Node& root);
  // A mapping that wins over what was read so far; its keys are ours, not a config.json's.
  void layer(const Node& root);
  // The words of --set.
  void overrides(const std::vector<std::string>& list);
  // Defaults, values that follow from others, and what is missing.
  void finish();

 private:
  // How a key was given last.
  struct Given {
    std::string path;  // the spelling
    std::string where;
    int layer = 0;
  };

  void walk(const Node& map, const std::string& section);
  void entry(const Node& key, const std::string& path, const Node& value);
  void value(const Resolved& resolved, const std::string& path, const Node& value);
  void moe_layers(const Node& value);
  void unknown(const Node& key, const std::string& path, const Node& value);
  void conflict(const Field& field, const std::string& path, const Node& value);
  void batch_tokens(const std::string& path, const Node& value);
  void fill_absent();
  void derive();
  void derive_batch();
  void derive_dtype();
  void require_parts();

  bool given(std::string_view key) const { return given_.count(std::string(key)) > 0; }
  // Given in the layer that is being read.
  bool given_here(std::string_view key) const {
    const auto it = given_.find(std::string(key));
    return it != given_.end() && it->second.layer == layer_;
  }
  // False once there are so many faults that more would not help.
  bool error(std::string code, std::string where, std::string key, std::string message,
             std::string hint);

  Parsed& p_;
  const bool hf_;
  std::string model_type_ = "deepseek_v3";
  int layer_ = 0;                       // 0: FILE; each word of --set is one of its own
  std::map<std::string, Given> given_;  // by canonical key
  std::optional<Given> no_fp8_;         // "use_fp8: false", which says no more than that
  std::optional<Node> batch_tokens_;
  std::optional<int64_t> last_moe_layer_;
  bool greedy_ = false;  // topk_method: groups play no part
};

}  // namespace dsv3::spec
