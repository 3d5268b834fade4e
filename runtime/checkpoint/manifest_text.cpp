// JSON out; see manifest.h. In: manifest.cpp.
//
// A model's tensors are many and every checkpoint prints them twice, beside training: they are
// formatted as they go, where a tree of JSON values took ten times as long.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/checkpoint/manifest.h"

namespace dsv3::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void print_string(std::string_view text, std::string& out) {
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return c >= ' ' && c <= '~' && c != '"' && c != '\\';
  });
  if (!plain) {
    out += dump(Json(text));
    return;
  }
  out += '"';
  out += text;
  out += '"';
}

void print_number(int64_t number, std::string& out) {
  const fmt::format_int text(number);
  out.append(text.data(), text.size());
}

// A value behind its key, one of several in an object.
void print_number(std::string_view key, int64_t number, std::string& out) {
  out += key;
  print_number(number, out);
}

void print_span(std::string_view key, int64_t begin, int64_t count, std::string& out) {
  print_number(key, begin, out);
  print_number(", ", begin + count, out);
  out += "], ";
}

void print_piece(const Piece& piece, const Box& whole, std::string& out) {
  const Box& box = piece.box;
  out += '{';
  if (box.row != whole.row || box.rows != whole.rows)
    print_span("\"rows\": [", box.row, box.rows, out);
  if (box.col != whole.col || box.cols != whole.cols)
    print_span("\"cols\": [", box.col, box.cols, out);
  print_number("\"shard\": ", piece.shard, out);
  out += ", \"key\": ";
  print_string(piece.key, out);
  if (piece.offset != 0) print_number(", \"offset\": ", piece.offset, out);
  out += '}';
}

void print_tensor(const ManifestTensor& tensor, std::string& out) {
  out += "{\"name\": ";
  print_string(tensor.info.name, out);
  out += ", \"dtype\": ";
  print_string(dtype_name(tensor.info.dtype), out);
  out += ", \"shape\": [";
  for (size_t i = 0; i < tensor.info.shape.size(); ++i)
    print_number(i == 0 ? "" : ", ", tensor.info.shape[i], out);
  out += "], \"pieces\": [";
  const Box whole = whole_box(tensor.info.shape);
  for (size_t i = 0; i < tensor.pieces.size(); ++i) {
    if (i > 0) out += ", ";
    print_piece(tensor.pieces[i], whole, out);
  }
  out += "]}";
}

Json state_json(const TrainingState& state) {
  Json json = {{"next_sample_idx", state.next_sample_idx},
               {"seed", state.seed},
               {"lr_step", state.lr_step},
               {"tokens_seen", state.tokens_seen},
               {"compute_dtype", state.compute_dtype},
               {"extra", Json::array()}};
  for (const auto& [key, value] : state.extra) json["extra"].push_back({key, value});
  return json;
}

// All but the tensors, without the bracket that ends it.
std::string print_head(const Manifest& manifest) {
  Json json;
  json["format"] = kManifestFormat;
  json["format_version"] = kManifestVersion;
  json["job"] = manifest.job;
  json["attempt"] = manifest.attempt;
  json["step"] = manifest.step;
  json["state"] = state_json(manifest.state);
  json["spec"] = manifest.spec_yaml;
  json["shards"] = Json::array();
  for (const Shard& shard : manifest.shards) {
    json["shards"].push_back(
        {{"file", shard.file}, {"bytes", shard.bytes}, {"xxh3_128", shard.checksum}});
  }
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace);
  text.resize(text.rfind('\n'));
  return text;
}

}  // namespace

std::string print_manifest(const Manifest& manifest) {
  std::string out = print_head(manifest);
  out += ",\n \"tensors\": [";
  const char* before = "\n  ";
  for (const ManifestTensor& tensor : manifest.tensors) {
    out += std::exchange(before, ",\n  ");
    print_tensor(tensor, out);
  }
  out += manifest.tensors.empty() ? "]\n}\n" : "\n ]\n}\n";
  return out;
}

}  // namespace dsv3::checkpoint
