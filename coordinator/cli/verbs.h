// The verbs of dsv3ctl, one maker each, in a file of the same name.
#pragma once

#include "coordinator/cli/verb.h"

namespace dsv3::cli {

// ---- the coordinator and its jobs
Verb make_up();
Verb make_down();
Verb make_submit();
Verb make_wait();
Verb make_cancel();
Verb make_resume();
Verb make_checkpoint();
Verb make_logs();
Verb make_status();
Verb make_metrics();
Verb make_experts();
Verb make_memory();
Verb make_events();
Verb make_nodes();
Verb make_sql();

// ---- data, models and help
Verb make_data();
Verb make_import();
Verb make_export();
Verb make_score();
Verb make_profile();
Verb make_calibrate();
Verb make_completion();
Verb make_complete();
Verb make_doctor();
Verb make_man();

// ---- offline: need no coordinator
Verb make_validate();
Verb make_explain();
Verb make_params();
Verb make_configs();
Verb make_plan();
Verb make_rehearse();
Verb make_recommend();
Verb make_migrate();

}  // namespace dsv3::cli
