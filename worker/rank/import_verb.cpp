// `dsv3-worker import`: a Hugging Face folder into a checkpoint of step 0.
//
// Law: nothing is decided here: options in, runtime/convert's import_hf(), a report out.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "runtime/convert/import.h"
#include "worker/rank/verb_io.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

void print_report(bool json, const convert::ImportReport& report) {
  if (json) {
    const nlohmann::ordered_json object{{"checkpoint", report.path},
                                        {"name", report.model.name},
                                        {"tensors", report.tensors},
                                        {"parameters", report.parameters},
                                        {"mtp_layers", report.model.mtp_layers},
                                        {"files", report.files},
                                        {"bytes", report.bytes},
                                        {"notes", report.notes}};
    print_object(object);
    return;
  }
  for (const std::string& note : report.notes) say("note: {}\n", note);
  say("{}: {} parameters of {} in {} tensors ({}), from {} file{}\n", report.path,
      with_commas(report.parameters), report.model.name, with_commas(report.tensors),
      human_bytes(report.bytes), report.files, report.files == 1 ? "" : "s");
}

}  // namespace

int import_verb(const std::vector<std::string>& arguments) {
  convert::ImportOptions options;
  bool json = false;
  CLI::App app("A Hugging Face folder (config.json and safetensors) into a checkpoint");
  app.name("dsv3ctl import");
  app.add_option("HFDIR", options.hf_dir, "folder with config.json and *.safetensors")->required();
  app.add_option("--out", options.out_dir, "folder of the checkpoint")->required();
  app.add_flag("--json", json, "print one JSON object");
  return run_verb(app, arguments, json, [&]() -> Status {
    ProgressLine line;
    options.progress = [&line](int64_t done, int64_t total) {
      line.show("importing", done, total);
    };
    DSV3_ASSIGN_OR_RETURN(const convert::ImportReport report, convert::import_hf(options));
    line.end();
    print_report(json, report);
    return {};
  });
}

}  // namespace dsv3::rank
