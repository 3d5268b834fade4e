// The presets that ship with the program: YAML files in the configs folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "configs/spec/job_spec.h"

namespace dsv3::spec {

struct Preset {
  std::string name;           // "15b"
  std::string file;           // absolute path of its YAML file
  std::string use_case;       // one line
  int64_t gpus_min = 0;       // 0: runs on CPUs
  int64_t gpu_memory_gb = 0;  // label GB of those GPUs; 0: none needed
  JobSpec job;
};

// The folder of the presets: $DSV3CTL_CONFIG_DIR, else what was installed with the binary
// (<its folder>/../share/dsv3ctl/configs), else the source tree's configs/ as compiled in; the
// first that exists. kNotFound naming what was tried.
Result<std::string> configs_dir();

// The preset that a name means: "15b" for itself, "deepseek_v3_15b" and
// "configs/deepseek_v3_15b.yaml"
// ("deepseek_v3_base" is 671b), in any case of letters, in small ones; "" for what looks like a
// path. Doesn't ask whether there is one.
std::string preset_name(const std::string& name);

// Names of the overlays that ship (configs/overlays/*.yaml), in alphabetic order.
Result<std::vector<std::string>> list_overlays();

// Every preset, smallest model first. kInvalid when a preset file has an error (it names the file
// and line).
Result<std::vector<Preset>> list_presets();

}  // namespace dsv3::spec
