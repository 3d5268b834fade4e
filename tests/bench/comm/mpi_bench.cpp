// The communication benchmark with MPI: run by mpirun, see tests/bench/run.sh.
#include <mpi.h>

#include "tests/bench/comm/cases.h"

namespace {

struct Theirs {
  int rank = 0;
  int size = 1;
  MPI_Comm world = MPI_COMM_WORLD;

  void barrier() { MPI_Barrier(world); }
  void all_reduce(float* data, int64_t n) {
    MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(n), MPI_FLOAT, MPI_SUM, world);
  }
  void all_gather(float* in, int64_t n, float* out) {
    MPI_Allgather(in, static_cast<int>(n), MPI_FLOAT, out, static_cast<int>(n), MPI_FLOAT, world);
  }
  void all_to_all(float* in, int64_t n, float* out) {
    MPI_Alltoall(in, static_cast<int>(n), MPI_FLOAT, out, static_cast<int>(n), MPI_FLOAT, world);
  }
  void reduce_scatter(float* in, int64_t n, float* out) {
    MPI_Reduce_scatter_block(in, out, static_cast<int>(n), MPI_FLOAT, MPI_SUM, world);
  }
  void send(float* data, int64_t n, int to) {
    MPI_Send(data, static_cast<int>(n), MPI_FLOAT, to, 0, world);
  }
  void receive(float* data, int64_t n, int from) {
    MPI_Recv(data, static_cast<int>(n), MPI_FLOAT, from, 0, world, MPI_STATUS_IGNORE);
  }
};

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  Theirs theirs;
  MPI_Comm_rank(MPI_COMM_WORLD, &theirs.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &theirs.size);
  dsv3::bench::run_cases(theirs, "ompi");
  MPI_Finalize();
  return 0;
}
