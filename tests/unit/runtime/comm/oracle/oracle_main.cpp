// The communicator beside Open MPI: each process does every operation with both and compares.
//
// Law: integers must agree bit by bit, fp32 within 1e-6 of the largest partial sum, bf16 within one
// rounding of the sum in fp32. Run by ctest under mpirun; ends with 1 and one line per difference.
#include <mpi.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "base/failure.h"
#include "runtime/comm/cpu/mesh.h"
#include "tests/unit/runtime/comm/values.h"

namespace dsv3::comm {
namespace {

int g_differences = 0;

void differs(const std::string& what, int64_t count, DType dtype) {
  ++g_differences;
  std::fprintf(stderr, "differs from Open MPI: %s of %lld %s\n", what.c_str(),
               static_cast<long long>(count), dtype_name(dtype));
}

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kI64:
      return MPI_INT64_T;
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kBf16:
      return MPI_UINT16_T;  // moved only
    case DType::kF32:
      break;
  }
  return MPI_FLOAT;
}

template <typename T>
std::vector<double> widened(const std::vector<char>& bytes) {
  std::vector<double> out(bytes.size() / sizeof(T));
  for (size_t i = 0; i < out.size(); ++i) {
    T v;
    std::memcpy(&v, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(v);
  }
  return out;
}

// `size` ranks add values of at most 1: a partial sum is at most `size`.
bool is_close(DType dtype, const std::vector<char>& ours, const std::vector<char>& theirs,
              int size) {
  if (dtype == DType::kI32 || dtype == DType::kI64) return ours == theirs;
  if (dtype == DType::kF64) {
    for (size_t at = 0; at < ours.size(); at += 8) {
      double a, b;
      std::memcpy(&a, ours.data() + at, 8);
      std::memcpy(&b, theirs.data() + at, 8);
      if (!(std::abs(a - b) <= 1e-14 * size)) return false;
    }
    return true;
  }
  // For bf16 `theirs` is the sum in fp32; one rounding is 2^-8 of the value at most.
  const auto a = dtype == DType::kBf16 ? widened<Bf16>(ours) : widened<float>(ours);
  const auto b = widened<float>(theirs);
  for (size_t i = 0; i < a.size(); ++i) {
    const double rounding = dtype == DType::kBf16 ? std::abs(b[i]) / 256 : 0;
    if (!(std::abs(a[i] - b[i]) <= rounding + 1e-6 * size)) return false;
  }
  return a.size() == b.size();
}

// bf16 values as fp32, for MPI to add; other dtypes as they are.
std::vector<char> for_mpi(DType dtype, const std::vector<char>& bytes) {
  if (dtype != DType::kBf16) return bytes;
  std::vector<char> out(bytes.size() * 2);
  const auto wide = widened<Bf16>(bytes);
  for (size_t i = 0; i < wide.size(); ++i) {
    const float v = static_cast<float>(wide[i]);
    std::memcpy(out.data() + 4 * i, &v, 4);
  }
  return out;
}
DType sum_type(DType dtype) {
  return dtype == DType::kBf16 ? DType::kF32 : dtype;
}

std::vector<int> as_int(const std::vector<int64_t>& counts) {
  return std::vector<int>(counts.begin(), counts.end());
}
std::vector<int> offsets(const std::vector<int64_t>& counts) {
  std::vector<int> out(counts.size());
  for (size_t r = 1; r < counts.size(); ++r) out[r] = out[r - 1] + static_cast<int>(counts[r - 1]);
  return out;
}
int64_t sum(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}
// The first rank that mix() picks gets nothing.
std::vector<int64_t> uneven(int64_t count, int size, int salt) {
  std::vector<int64_t> counts;
  for (int r = 0; r < size; ++r)
    counts.push_back(static_cast<int64_t>(mix(static_cast<uint64_t>(r + 17 * salt)) %
                                          static_cast<uint64_t>(count + 1)));
  counts[mix(static_cast<uint64_t>(salt)) % static_cast<uint64_t>(size)] = 0;
  return counts;
}

void compare_sums(Communicator& c, DType dtype, int64_t count, int salt) {
  const DType wide = sum_type(dtype);
  auto data = values(dtype, count, c.rank(), salt);
  auto theirs = for_mpi(dtype, data);
  c.all_reduce("sum", buffer(data, dtype));
  MPI_Allreduce(MPI_IN_PLACE, theirs.data(), static_cast<int>(count), mpi_type(wide), MPI_SUM,
                MPI_COMM_WORLD);
  if (!is_close(dtype, data, theirs, c.size())) differs("all_reduce", count, dtype);
  auto largest = values(dtype, count, c.rank(), salt + 1);
  theirs = for_mpi(dtype, largest);
  c.all_reduce("max", buffer(largest, dtype), Reduce::kMax);
  MPI_Allreduce(MPI_IN_PLACE, theirs.data(), static_cast<int>(count), mpi_type(wide), MPI_MAX,
                MPI_COMM_WORLD);
  if (for_mpi(dtype, largest) != theirs) differs("all_reduce (max)", count, dtype);

  const auto counts = uneven(count, c.size(), salt);
  const auto in = values(dtype, sum(counts), c.rank(), salt + 2);
  const size_t own = static_cast<size_t>(counts[static_cast<size_t>(c.rank())]);
  std::vector<char> out(own * dtype_bytes(dtype));
  theirs.assign(own * dtype_bytes(wide), 0);
  c.reduce_scatter("pieces", const_buffer(in, dtype), buffer(out, dtype), counts);
  MPI_Reduce_scatter(for_mpi(dtype, in).data(), theirs.data(), as_int(counts).data(),
                     mpi_type(wide), MPI_SUM, MPI_COMM_WORLD);
  if (!is_close(dtype, out, theirs, c.size())) differs("reduce_scatter", count, dtype);
}

void compare_moves(Communicator& c, DType dtype, int64_t count, int salt) {
  const MPI_Datatype type = mpi_type(dtype);
  const size_t me = static_cast<size_t>(c.rank()), width = dtype_bytes(dtype);
  const auto counts = uneven(count, c.size(), salt);
  const auto part = values(dtype, counts[me], c.rank(), salt);
  std::vector<char> ours(static_cast<size_t>(sum(counts)) * width), theirs(ours.size());
  c.all_gather("parts", const_buffer(part, dtype), buffer(ours, dtype), counts);
  MPI_Allgatherv(part.data(), static_cast<int>(counts[me]), type, theirs.data(),
                 as_int(counts).data(), offsets(counts).data(), type, MPI_COMM_WORLD);
  if (ours != theirs) differs("all_gather", count, dtype);

  std::vector<int64_t> receive;
  for (int r = 0; r < c.size(); ++r) receive.push_back(uneven(count, c.size(), salt + 3 + r)[me]);
  const auto send = uneven(count, c.size(), salt + 3 + c.rank());
  const auto in = values(dtype, sum(send), c.rank(), salt + 1);
  ours.assign(static_cast<size_t>(sum(receive)) * width, 0);
  theirs = ours;
  c.all_to_all("parts", const_buffer(in, dtype), send, buffer(ours, dtype), receive);
  MPI_Alltoallv(in.data(), as_int(send).data(), offsets(send).data(), type, theirs.data(),
                as_int(receive).data(), offsets(receive).data(), type, MPI_COMM_WORLD);
  if (ours != theirs) differs("all_to_all", count, dtype);

  const int root = salt % c.size();
  ours = theirs = values(dtype, count, c.rank(), salt + 2);
  c.broadcast("root", buffer(ours, dtype), root);
  MPI_Bcast(theirs.data(), static_cast<int>(count), type, root, MPI_COMM_WORLD);
  if (ours != theirs) differs("broadcast", count, dtype);

  const int next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
  const auto message = values(dtype, count, c.rank(), salt + 3);
  const Ticket ticket = c.start_receive("ring", buffer(ours, dtype), previous);
  c.send("ring", const_buffer(message, dtype), next);
  c.wait(ticket);
  MPI_Sendrecv(message.data(), static_cast<int>(count), type, next, 0, theirs.data(),
               static_cast<int>(count), type, previous, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  if (ours != theirs) differs("send and receive", count, dtype);
  c.barrier("both");
}

int run() {
  MeshOptions options;
  int base = getpid();
  MPI_Comm_rank(MPI_COMM_WORLD, &options.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &options.world);
  MPI_Bcast(&base, 1, MPI_INT, 0, MPI_COMM_WORLD);
  options.rendezvous = "local:oracle " + std::to_string(base);
  auto mesh = Mesh::connect(options);
  if (!mesh.ok()) {
    std::fprintf(stderr, "%s\n", mesh.status().to_string().c_str());
    return 1;
  }
  std::vector<int> members(static_cast<size_t>(options.world));
  std::iota(members.begin(), members.end(), 0);
  auto group = (*mesh)->create_group("all", members);
  int salt = 0;
  for (const DType dtype : all_dtypes())
    for (const int64_t count : {0, 1, 61, 8192, 8193, 50'021, 300'007}) {
      compare_sums(*group, dtype, count, salt += 10);
      compare_moves(*group, dtype, count, salt += 10);
    }
  MPI_Allreduce(MPI_IN_PLACE, &g_differences, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  return g_differences == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsv3::comm

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int code = 1;
  try {
    code = dsv3::comm::run();
  } catch (const dsv3::Failure& f) {
    std::fprintf(stderr, "%s\n", f.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return code;
}
