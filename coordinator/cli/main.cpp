// dsv3ctl: the command line of the job orchestrator. All verbs are in this folder, one file each.
#include "coordinator/cli/verb.h"

int main(int argc, char** argv) {
  return dsv3::cli::run(argc, argv);
}
