// The table put together once, and the sections' names. The entries are in fields_model.cpp and
// fields_run.cpp.
#include "configs/spec/field_table.h"

#include "configs/spec/field_entry.h"

namespace dsv3::spec {

std::span<const Field> field_table() {
  static const std::vector<Field> table = [] {
    std::vector<Field> fields;
    append_model_fields(fields);
    append_run_fields(fields);
    return fields;
  }();
  return table;
}

std::span<const Section> section_table() {
  static constexpr Section kSections[] = {
      {"model", "The architecture."},
      {"model.mla", "Multi-head latent attention."},
      {"model.mla.rope_scaling", "Stretching the context (YaRN)."},
      {"model.moe", "Mixture of experts: layers first_k_dense … num_layers − 1 and MTP modules."},
      {"parallel", "How ranks share the work: world = TP × CP × PP × EP × DP."},
      {"training", "Steps, batch, precision, optimizer."},
      {"data", "What to train on."},
      {"checkpoint", "When and where to save."},
      {"logging", "What to write down."},
      {"cluster", "Where to run."},
      {"preset", "What `configs list` says of a preset."},
  };
  return kSections;
}

}  // namespace dsv3::spec
