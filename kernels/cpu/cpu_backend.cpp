// The CPU back end's memory, its choice of matmul dtype, and the class that forwards every op to
// its free function.
//
// Law: nothing is decided at compile time that the processor decides at run time: AVX2+FMA is
// checked here, before any kernel runs, and bf16 matrix products are chosen only where they were
// measured faster (cpu_backend.h).
#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "base/failure.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/matmul.h"

#include <cpuid.h>
#include <sys/mman.h>

namespace dsv3::cpu {
namespace {

constexpr size_t kAlignment = 64;
// Larger blocks ask for huge pages: rows of a few hundred bytes, a page apart, cost a translation
// each.
constexpr size_t kHugePage = size_t{2} << 20;

bool has_amd_signature() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return false;
  return ebx == signature_AMD_ebx && ecx == signature_AMD_ecx && edx == signature_AMD_edx;
}

// CPUID leaf 7: AMX-BF16 is bit 22 of EDX in subleaf 0, AVX512-BF16 bit 5 of EAX in subleaf 1.
bool has_amx_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ((edx >> 22) & 1u);
}
bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && ((eax >> 5) & 1u) &&
         __builtin_cpu_supports("avx512f");
}

bool detect_bf16_is_faster() {
  if (const char* forced = std::getenv("DSV3_CPU_MATMUL")) {
    if (std::string_view(forced) == "f32") return false;
    if (std::string_view(forced) == "bf16") return true;
  }
  return has_amx_bf16() || (has_avx512_bf16() && has_amd_signature());
}

class CpuBackend final : public ops::Backend {
 public:
  const char* name() const override { return "cpu"; }

  void* allocate(size_t bytes) override {
    const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kAlignment;
    const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
    void* data = rounded < bytes ? nullptr : std::aligned_alloc(alignment, rounded);
    if (!data) {
      throw Failure(Code::kOutOfMemory, "cpu: allocate",
                    std::to_string(bytes) + " bytes could not be allocated");
    }
    // A kernel without huge pages says no, and nothing is lost.
    if (alignment == kHugePage) (void)madvise(data, rounded, MADV_HUGEPAGE);
    return data;
  }
  void deallocate(void* data) override { std::free(data); }
  void copy_to_device(void* to, const void* from_host, size_t bytes, ops::Stream) override {
    if (bytes) std::memcpy(to, from_host, bytes);
  }
  void copy_to_host(void* to_host, const void* from, size_t bytes, ops::Stream) override {
    if (bytes) std::memcpy(to_host, from, bytes);
  }
  void fill_zero(void* data, size_t bytes, ops::Stream) override {
    if (bytes) std::memset(data, 0, bytes);
  }
  void synchronize(ops::Stream) override {}
  DType matmul_dtype() const override { return bf16_is_faster() ? DType::kBf16 : DType::kF32; }

#define DSV3_FORWARD_OP(op, Args)                               \
  void op(const ops::Context& c, const ops::Args& a) override { \
    cpu::op(c, a);                                              \
  }
  DSV3_FORWARD_OP(gemm, Gemm)
  DSV3_FORWARD_OP(grouped_gemm, GroupedGemm)
  DSV3_FORWARD_OP(grouped_gemm_weight_grad, GroupedGemmWeightGrad)
  DSV3_FORWARD_OP(mla_attention_forward, MlaAttentionForward)
  DSV3_FORWARD_OP(mla_attention_backward, MlaAttentionBackward)
  DSV3_FORWARD_OP(router_forward, RouterForward)
  DSV3_FORWARD_OP(router_loss, RouterLoss)
  DSV3_FORWARD_OP(router_backward, RouterBackward)
  DSV3_FORWARD_OP(router_bias_update, RouterBiasUpdate)
  DSV3_FORWARD_OP(embedding_forward, EmbeddingForward)
  DSV3_FORWARD_OP(embedding_backward, EmbeddingBackward)
#undef DSV3_FORWARD_OP
#define DSV3_FORWARD_ROW_OP(op, Args)                           \
  void op(const ops::Context& c, const ops::Args& a) override { \
    wide_rows_ ? rows_v4::op(c, a) : rows_v3::op(c, a);         \
  }
  DSV3_CPU_ROW_OPS(DSV3_FORWARD_ROW_OP)
#undef DSV3_FORWARD_ROW_OP

 private:
  const bool wide_rows_ = has_f32_vectors();
};

}  // namespace

bool bf16_is_faster() {
  static const bool faster = detect_bf16_is_faster();
  return faster;
}

Result<std::unique_ptr<ops::Backend>> create_backend() {
  std::string missing;
  if (!__builtin_cpu_supports("avx2")) missing = "AVX2";
  if (!__builtin_cpu_supports("fma")) missing += missing.empty() ? "FMA" : " and FMA";
  if (!missing.empty()) {
    return Status(Code::kDevice,
                  "the CPU back end needs " + missing + ", which this processor lacks",
                  "run on a machine of the x86-64-v3 level");
  }
  return std::unique_ptr<ops::Backend>(std::make_unique<CpuBackend>());
}

}  // namespace dsv3::cpu
