// compare(): two layouts of one job side by side, and parse_layout(): a layout as people write it.
//
// Laws: PURE. Of a layout that was planned for a job, parse_layout(to_string(layout)) is the
// layout. Nothing is chosen here: what a text leaves out is the job's own, and the data-parallel
// size what the other axes leave of the world.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/plan/device_model.h"
#include "cluster/plan/layout.h"
#include "cluster/plan/memory.h"
#include "cluster/plan/plan.h"
#include "cluster/plan/time_model.h"

namespace dsv3::plan {

// More than anybody has; every product of sizes below it fits 64 bits.
inline constexpr int64_t kRanksMax = int64_t{1} << 24;

// "TP2 PP4 EP8 DP1 ZeRO-1 recompute selective", words in any order and case, commas allowed; or
// "tp=2 pp=4 zero_stage=1", with the names of the LAYOUT object; both may be mixed. Left out: axes
// 1, DP world / the others (where that is whole), everything else as in `job`. `world` 0: as many
// ranks as the axes give, at most kRanksMax. kInvalid names the word, and the nearest that is
// known; or what does not agree: a word given twice, ranks that are not `world`, an accumulation
// that is not global_batch_size's.
Result<Layout> parse_layout(const std::string& text, const spec::JobSpec& job, int64_t world);

struct ComparedLayout {
  Layout layout;
  std::string fault;  // check_layout()'s; then nothing else is known
  int64_t peak_bytes = 0;
  int64_t worst_stage = 0;
  bool fits = false;
  std::vector<LedgerLine> ledger;  // of the worst stage
  std::optional<double> step_s;
  std::optional<double> tokens_per_s;  // of all ranks
  std::vector<TimeLine> time;
};

// A field of LAYOUT in which the two differ.
struct LayoutDifference {
  std::string name;
  std::string left;
  std::string right;
  bool operator==(const LayoutDifference&) const = default;
};

struct Comparison {
  ComparedLayout left;
  ComparedLayout right;
  std::vector<LayoutDifference> differences;
  std::string verdict;  // one sentence
};

// Speeds are compared by time per sequence; of layouts with unlike numbers of ranks per device, and
// the verdict says so. `rank_memory_bytes`: usable by one rank; 0: unknown, then nothing fits.
// `device` null: no times.
Comparison compare(const MemoryModel& model, const DeviceModel* device, int64_t rank_memory_bytes,
                   const Layout& left, const Layout& right);

}  // namespace dsv3::plan
