// `dsv3-worker export`: a checkpoint's weights into a Hugging Face folder.
//
// Law: nothing is decided here: options in, runtime/convert's export_hf(), a report out.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "runtime/convert/export.h"
#include "worker/rank/verb_io.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

constexpr double kGigabyte = 1e9;

const char* spelled(DType dtype) {
  return dtype == DType::kF32 ? "fp32" : "bf16";
}

void print_report(bool json, const convert::ExportReport& report) {
  if (json) {
    const nlohmann::ordered_json object{
        {"path", report.path},
        {"checkpoint", report.checkpoint},
        {"name", report.model.name},
        {"dtype", spelled(report.dtype)},
        {"tensors", report.tensors},
        {"files", report.files},
        {"bytes", report.bytes},
        {"tokenizer", report.tokenizer.empty() ? nlohmann::ordered_json(nullptr)
                                               : nlohmann::ordered_json(report.tokenizer)},
        {"notes", report.notes}};
    print_object(object);
    return;
  }
  for (const std::string& note : report.notes) say("note: {}\n", note);
  say("{}: {} tensors in {} ({}), {} file{}{}; from {}\n", report.path, with_commas(report.tensors),
      spelled(report.dtype), human_bytes(report.bytes), report.files, report.files == 1 ? "" : "s",
      report.tokenizer.empty() ? "" : " and the tokenizer's model", report.checkpoint);
}

}  // namespace

int export_verb(const std::vector<std::string>& arguments) {
  convert::ExportOptions options;
  std::string format;
  double shard_gb = 5;
  bool json = false;
  CLI::App app("A checkpoint's weights as a Hugging Face folder");
  app.name("dsv3ctl export");
  app.add_option("--checkpoint", options.checkpoint, "a checkpoint, or a folder of them")
      ->required();
  app.add_option("--format", format, "hf")->required()->check(CLI::IsMember({"hf"}));
  app.add_option("--out", options.out_dir, "folder to write")->required();
  app.add_option("--dtype", options.dtype, "bf16 or fp32 (default: the job's)")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--max-shard-size", shard_gb, "GB of a file")->capture_default_str();
  app.add_flag("--json", json, "print one JSON object");
  return run_verb(app, arguments, json, [&]() -> Status {
    if (!(shard_gb > 0 && shard_gb < 1e6)) {
      return Status(Code::kInvalid,
                    fmt::format("--max-shard-size {} is not a size in GB", shard_gb),
                    "for example 5");
    }
    options.shard_bytes_max = static_cast<int64_t>(shard_gb * kGigabyte);
    ProgressLine line;
    options.progress = [&line](int64_t done, int64_t total) {
      line.show("exporting", done, total);
    };
    DSV3_ASSIGN_OR_RETURN(const convert::ExportReport report, convert::export_hf(options));
    line.end();
    print_report(json, report);
    return {};
  });
}

}  // namespace dsv3::rank
