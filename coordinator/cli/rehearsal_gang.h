// The processes of a rehearsal: a folder of their own, a gang of dsv3-worker ranks at a time, and
// what rank 0 wrote of each step.
//
// Law: everything has the rehearsal's deadline; no process outlives the call that started it, and
// the folder goes with the object unless it is to be kept.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::cli {

// Step → loss.
using Losses = std::map<int64_t, double>;

class RehearsalFolder {
 public:
  // A new folder below $TMPDIR (/tmp), removed by the destructor unless `keep`.
  static Result<RehearsalFolder> create(bool keep, int64_t deadline_ns);
  RehearsalFolder(RehearsalFolder&& other) noexcept;
  RehearsalFolder& operator=(RehearsalFolder&&) = delete;
  ~RehearsalFolder();

  const std::string& path() const { return path_; }

  // Writes a text of its own and prepares it; the prefix of the data. Byte values only, and their
  // end (plan::kRehearsalTokens).
  Result<std::string> prepare_text() const;

  struct Run {
    std::string name;        // of its folder here; two runs of one name share checkpoints
    spec::JobSpec job;       // data.path included
    plan::Layout layout;     // as many ranks
    int64_t steps_max = 0;   // where it ends
    int64_t saved_step = 0;  // it goes on from this step's checkpoint; 0: from the start
  };
  // Trains; the losses of the steps of this run. kFailed names the rank that failed first and its
  // last log line; kTimeout, kInterrupted: all ranks are gone when it returns.
  Result<Losses> train(const Run& run) const;

 private:
  RehearsalFolder(std::string path, bool keep, int64_t deadline_ns)
      : path_(std::move(path)), keep_(keep), deadline_ns_(deadline_ns) {}

  std::string path_;
  bool keep_;
  int64_t deadline_ns_;  // of the system clock's steady_ns()
};

}  // namespace dsv3::cli
