// --hostfile FILE with --include or --exclude: GPUs counted from the file that starts jobs
// elsewhere, for the verbs that take --gpus.
//
// Law: a hostfile says what --gpus says, so only one of them may be given; how many GPUs a node has
// comes from the file, and what is not equal on every node is refused by name. A word that is given
// and empty (of a variable that isn't set) is refused, not taken as absent.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cluster/plan/cluster_spec.h"
#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// Each holds every word given for it: none where it is absent.
struct HostfileOptions {
  std::vector<std::string> file;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
};

// `target` must outlive the verb.
std::vector<Option> hostfile_options(HostfileOptions* target);

// The machines of the file, nullopt without --hostfile. `gpus` is what --gpus said (0: nothing).
Result<std::optional<plan::ClusterSpec>> read_cluster(const HostfileOptions& options, int64_t gpus,
                                                      double gpu_memory_gb,
                                                      const std::string& gpu_name);

// `text` as a shell reads it back as one word.
std::string shell_word(const std::string& text);
// The same options as words for a shell, for a command to run next: "--hostfile hosts --exclude c".
std::string hostfile_words(const HostfileOptions& options);

}  // namespace dsv3::cli
