// TimeModel: seconds of a training step under a layout: compute by rooflines, the pipeline's bubble
// by simulating its schedule, communication per axis by volume and link, less what overlaps.
//
// Laws: PURE. The lines sum to step_s. predict() and step_seconds() are the same number, and
// lower_bound() is never above it. A model is made once for a job and asked for many layouts; it
// remembers parts of its answers, so one thread uses it at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cluster/plan/device_model.h"
#include "cluster/plan/layout.h"
#include "configs/spec/job_spec.h"

namespace dsv3::plan {

// "forward", "backward", "recompute", "tp", "cp", "ep" of the busiest stage, "pipeline_bubble" (its
// waiting), "pp", "dp" (each exchange: what is not hidden; "tp" with the step's sum of the
// gradients that every TP rank has of what it holds whole), "optimizer", "offload"; zero lines are
// left out.
struct TimeLine {
  std::string name;
  double seconds = 0;
  bool operator==(const TimeLine&) const = default;
};

struct StepTime {
  double step_s = 0;
  std::vector<TimeLine> lines;
};

class TimeModel {
 public:
  // job and device outlive it. devices_per_node 0: one node.
  TimeModel(const spec::JobSpec& job, const DeviceModel& device, int64_t devices_per_node);
  ~TimeModel();

  // `layout` passes check_layout().
  StepTime predict(const Layout& layout) const;
  double step_seconds(const Layout& layout) const;
  // Cheap: without simulating the pipeline.
  double lower_bound(const Layout& layout) const;

 private:
  struct Cache;
  const spec::JobSpec& job_;
  const DeviceModel& device_;
  int64_t devices_per_node_;
  std::unique_ptr<Cache> cache_;
};

// Sequences that one step of the whole job takes.
int64_t sequences_per_step(const Layout& layout);

}  // namespace dsv3::plan
