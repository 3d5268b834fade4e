// dsv3-agent: one per node and attempt; started by a launcher, speaks to the coordinator, runs the
// ranks (worker/agent).
#include "worker/agent/run.h"

int main(int argc, char** argv) {
  return dsv3::agent::run(argc, argv);
}
