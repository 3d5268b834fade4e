// dsv3-worker: one rank of a job, or a verb that computes, run as a child of dsv3ctl (worker/rank).
#include "worker/rank/verbs.h"

int main(int argc, char** argv) {
  return dsv3::rank::run(argc, argv);
}
