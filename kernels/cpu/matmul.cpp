// The cache of oneDNN matmul primitives; see matmul.h.
#include "kernels/cpu/matmul.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "base/failure.h"
#include "kernels/cpu/parallel.h"

namespace dsv3::cpu {
namespace {

using dnnl::memory;

// Shapes of one job number in the hundreds; text generation, whose lengths vary, may reach this.
constexpr size_t kCacheMax = 4096;

const dnnl::engine& engine() {
  static const dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

memory::data_type data_type(DType dtype) {
  return dtype == DType::kBf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc matrix_desc(int64_t rows, int64_t cols, int64_t stride, bool transposed, DType dtype) {
  const memory::dims strides = transposed ? memory::dims{1, stride} : memory::dims{stride, 1};
  return memory::desc({rows, cols}, data_type(dtype), strides);
}

struct Descs {
  memory::desc a, b, c;
};

Descs make_descs(const MatmulShape& s, int64_t m, int64_t k) {
  return {matrix_desc(m, k, s.a_stride, s.transpose_a, s.in),
          matrix_desc(k, s.n, s.b_stride, s.transpose_b, s.in),
          matrix_desc(m, s.n, s.c_stride, false, s.out)};
}

class DnnlMatmul final : public Matmul {
 public:
  explicit DnnlMatmul(const MatmulShape& shape) : shape_(shape) {
    const int64_t m = shape.runtime == RuntimeDim::kM ? DNNL_RUNTIME_DIM_VAL : shape.m;
    const int64_t k = shape.runtime == RuntimeDim::kK ? DNNL_RUNTIME_DIM_VAL : shape.k;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.accumulate) {
      dnnl::post_ops ops;
      ops.append_sum(1.0f);
      attr.set_post_ops(ops);
    }
    descs_ = make_descs(shape, m, k);
    b_source_desc_ = descs_.b;
    if (shape.packed_b) {
      descs_.b = memory::desc({k, shape.n}, data_type(shape.in), memory::format_tag::any);
      if (shape.packed_m != 0)
        descs_.b = describe(make_descs(shape, shape.packed_m, k), descs_.b, attr).weights_desc();
    }
    const dnnl::matmul::primitive_desc pd = describe(descs_, descs_.b, attr);
    scratch_desc_ = pd.scratchpad_desc();
    primitive_ = dnnl::matmul(pd);
    if (shape.packed_b) {
      descs_.b = pd.weights_desc();
      pack_ = dnnl::reorder(
          dnnl::reorder::primitive_desc(engine(), b_source_desc_, engine(), descs_.b));
    }
  }

  size_t scratch_bytes() const override { return aligned_bytes(scratch_desc_.get_size()); }

  void run(const void* a, const void* b, void* c, std::byte* scratch,
           int64_t runtime_size) const override {
    try {
      if (shape_.runtime == RuntimeDim::kNone) {
        execute_bound(a, b, c, scratch);
      } else {
        const bool rows = shape_.runtime == RuntimeDim::kM;
        execute(make_descs(shape_, rows ? runtime_size : shape_.m, rows ? shape_.k : runtime_size),
                a, b, c, scratch);
      }
    } catch (const dnnl::error& e) {
      throw Failure(Code::kDevice, "cpu: matmul", e.what());
    }
  }

  size_t packed_bytes() const override { return aligned_bytes(descs_.b.get_size()); }

  void pack(const void* b, void* packed) const override {
    try {
      memory from(b_source_desc_, engine(), const_cast<void*>(b)), to(descs_.b, engine(), packed);
      pack_.execute(stream(), from, to);
    } catch (const dnnl::error& e) {
      throw Failure(Code::kDevice, "cpu: matmul", e.what());
    }
  }

 private:
  static dnnl::matmul::primitive_desc describe(const Descs& descs, const memory::desc& b,
                                               const dnnl::primitive_attr& attr) {
    return dnnl::matmul::primitive_desc(dnnl::matmul::desc(descs.a, b, descs.c), attr, engine());
  }

  void execute(const Descs& descs, const void* a, const void* b, void* c,
               std::byte* scratch) const {
    primitive_.execute(stream(),
                       {{DNNL_ARG_SRC, memory(descs.a, engine(), const_cast<void*>(a))},
                        {DNNL_ARG_WEIGHTS, memory(descs.b, engine(), const_cast<void*>(b))},
                        {DNNL_ARG_DST, memory(descs.c, engine(), c)},
                        {DNNL_ARG_SCRATCHPAD, memory(scratch_desc_, engine(), scratch)}});
  }

  // Fixed sizes: the thread's own memory objects are pointed at the operands, since making them
  // costs as much as a small product.
  void execute_bound(const void* a, const void* b, void* c, std::byte* scratch) const {
    thread_local std::array<Bound, kBoundSlots> slots;
    Bound& bound = slots[id_ % kBoundSlots];
    if (bound.id != id_) {
      bound.operands = {memory(descs_.a, engine(), nullptr), memory(descs_.b, engine(), nullptr),
                        memory(descs_.c, engine(), nullptr),
                        memory(scratch_desc_, engine(), nullptr)};
      const int kinds[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
      for (int i = 0; i < 4; ++i) bound.args[i] = {kinds[i], bound.operands[i].get()};
      bound.id = id_;
    }
    bound.operands[0].set_data_handle(const_cast<void*>(a));
    bound.operands[1].set_data_handle(const_cast<void*>(b));
    bound.operands[2].set_data_handle(c);
    bound.operands[3].set_data_handle(scratch);
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(primitive_.get(), stream().get(), 4, bound.args.data()),
        "could not execute a matmul");
  }

  // Memory objects of one primitive, kept by one thread.
  struct Bound {
    uint64_t id = 0;
    std::array<memory, 4> operands;
    std::array<dnnl_exec_arg_t, 4> args;
  };
  static constexpr size_t kBoundSlots = 128;
  static inline std::atomic<uint64_t> next_id_{1};

  uint64_t id_ = next_id_++;
  MatmulShape shape_;
  Descs descs_;
  memory::desc scratch_desc_;
  memory::desc b_source_desc_;
  dnnl::reorder pack_;
  dnnl::matmul primitive_;
};

struct Key {
  MatmulShape shape;
  int threads;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    const MatmulShape& s = key.shape;
    const int flags = s.transpose_a | s.transpose_b << 1 | s.accumulate << 2 |
                      static_cast<int>(s.in) << 3 | static_cast<int>(s.out) << 6 |
                      static_cast<int>(s.runtime) << 9 | s.packed_b << 12;
    uint64_t h = 0xCBF29CE484222325u;
    for (int64_t v : {s.m, s.n, s.k, s.a_stride, s.b_stride, s.c_stride, int64_t{flags},
                      int64_t{key.threads}, s.packed_m}) {
      h = (h ^ static_cast<uint64_t>(v)) * 0x9E3779B97F4A7C15u;
      h ^= h >> 29;
    }
    return h;
  }
};

struct Cache {
  std::shared_mutex mutex;
  std::unordered_map<Key, std::shared_ptr<const Matmul>, KeyHash> entries;
  int64_t made = 0;
};

Cache& cache() {
  static Cache* c = new Cache;  // never destroyed: ops may run while the process ends
  return *c;
}

// oneDNN writes the code that it makes for a product into memory without looking whether it got
// any: under a tight limit of address space (ulimit -v) the process ended by signal 11. So room is
// asked for first, a multiple of what one product has been seen to take, and given back.
void expect_room_for_code() {
  constexpr size_t kRoomBytes = size_t{16} << 20;
  void* room =
      ::mmap(nullptr, kRoomBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) {
    throw Failure(
        Code::kOutOfMemory, "cpu: matmul",
        std::to_string(kRoomBytes) + " bytes for a product's code could not be allocated");
  }
  ::munmap(room, kRoomBytes);
}

// The instruction sets are numbered as bit sets: a larger one holds the smaller ones' bits.
bool has_isa(dnnl::cpu_isa isa) {
  static const auto effective = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (effective & static_cast<unsigned>(isa)) == static_cast<unsigned>(isa);
}

}  // namespace

std::shared_ptr<const Matmul> cached_matmul(const MatmulShape& shape, int threads) {
  Cache& c = cache();
  const Key key{shape, threads};
  {
    std::shared_lock lock(c.mutex);
    if (auto it = c.entries.find(key); it != c.entries.end()) return it->second;
  }
  std::unique_lock lock(c.mutex);
  if (auto it = c.entries.find(key); it != c.entries.end()) return it->second;
  if (c.entries.size() >= kCacheMax) c.entries.clear();
  try {
    const ScopedThreads scoped(threads);
    expect_room_for_code();
    auto made = std::make_shared<const DnnlMatmul>(shape);
    c.entries.emplace(key, made);
    ++c.made;
    return made;
  } catch (const dnnl::error& e) {
    const bool memory = e.status == dnnl_out_of_memory;
    throw Failure(memory ? Code::kOutOfMemory : Code::kDevice, "cpu: matmul",
                  "oneDNN has no product [" + std::to_string(shape.m) + ", " +
                      std::to_string(shape.k) + "] x [" + std::to_string(shape.k) + ", " +
                      std::to_string(shape.n) + "] of " + dtype_name(shape.in) + ": " + e.what());
  }
}

int64_t matmuls_made() {
  std::shared_lock lock(cache().mutex);
  return cache().made;
}

bool native_bf16() {
  return has_isa(dnnl::cpu_isa::avx512_core);
}

bool has_amx() {
  return has_isa(dnnl::cpu_isa::avx512_core_amx);
}

bool has_f32_vectors() {
  return has_isa(dnnl::cpu_isa::avx512_core);
}

bool has_bf16_vectors() {
  return has_isa(dnnl::cpu_isa::avx512_core_bf16) && !has_amx();
}

}  // namespace dsv3::cpu
