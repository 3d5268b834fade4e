// The table of verbs, in the order of `dsv3ctl --help`.
#include "coordinator/cli/verbs.h"

namespace dsv3::cli {

std::vector<Verb> all_verbs() {
  return {make_submit(),     make_up(),      make_wait(),     make_cancel(),  make_resume(),
          make_checkpoint(), make_down(),    make_status(),   make_logs(),    make_metrics(),
          make_experts(),    make_memory(),  make_events(),   make_nodes(),   make_sql(),
          make_recommend(),  make_migrate(), make_configs(),  make_params(),  make_validate(),
          make_explain(),    make_plan(),    make_rehearse(), make_profile(), make_calibrate(),
          make_data(),       make_import(),  make_export(),   make_score(),   make_doctor(),
          make_completion(), make_man(),     make_complete()};
}

}  // namespace dsv3::cli
