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

#include <cpuid.h>

namespace dsv3::cpu {
namespace {

constexpr size_t kAlignment = 64;

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
    const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
    void* data = rounded < bytes ? nullptr : std::aligned_alloc(kAlignment, rounded);
    if (!data) {
      throw Failure(Code::kOutOfMemory, "cpu: allocate",
                    std::to_string(bytes) + " bytes could not be allocated");
    }
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

  void gemm(const ops::Context& c, const ops::Gemm& a) override { cpu::gemm(c, a); }
  void grouped_gemm(const ops::Context& c, const ops::GroupedGemm& a) override {
    cpu::grouped_gemm(c, a);
  }
  void grouped_gemm_weight_grad(const ops::Context& c,
                                const ops::GroupedGemmWeightGrad& a) override {
    cpu::grouped_gemm_weight_grad(c, a);
  }
  void rms_norm_forward(const ops::Context& c, const ops::RmsNormForward& a) override {
    cpu::rms_norm_forward(c, a);
  }
  void rms_norm_backward(const ops::Context& c, const ops::RmsNormBackward& a) override {
    cpu::rms_norm_backward(c, a);
  }
  void rope(const ops::Context& c, const ops::Rope& a) override { cpu::rope(c, a); }
  void mla_attention_forward(const ops::Context& c, const ops::MlaAttentionForward& a) override {
    cpu::mla_attention_forward(c, a);
  }
  void mla_attention_backward(const ops::Context& c, const ops::MlaAttentionBackward& a) override {
    cpu::mla_attention_backward(c, a);
  }
  void swiglu_forward(const ops::Context& c, const ops::SwigluForward& a) override {
    cpu::swiglu_forward(c, a);
  }
  void swiglu_backward(const ops::Context& c, const ops::SwigluBackward& a) override {
    cpu::swiglu_backward(c, a);
  }
  void router_forward(const ops::Context& c, const ops::RouterForward& a) override {
    cpu::router_forward(c, a);
  }
  void router_loss(const ops::Context& c, const ops::RouterLoss& a) override {
    cpu::router_loss(c, a);
  }
  void router_backward(const ops::Context& c, const ops::RouterBackward& a) override {
    cpu::router_backward(c, a);
  }
  void router_bias_update(const ops::Context& c, const ops::RouterBiasUpdate& a) override {
    cpu::router_bias_update(c, a);
  }
  void route_plan(const ops::Context& c, const ops::RoutePlan& a) override {
    cpu::route_plan(c, a);
  }
  void permute_rows(const ops::Context& c, const ops::PermuteRows& a) override {
    cpu::permute_rows(c, a);
  }
  void unpermute_sum(const ops::Context& c, const ops::UnpermuteSum& a) override {
    cpu::unpermute_sum(c, a);
  }
  void embedding_forward(const ops::Context& c, const ops::EmbeddingForward& a) override {
    cpu::embedding_forward(c, a);
  }
  void embedding_backward(const ops::Context& c, const ops::EmbeddingBackward& a) override {
    cpu::embedding_backward(c, a);
  }
  void cross_entropy(const ops::Context& c, const ops::CrossEntropy& a) override {
    cpu::cross_entropy(c, a);
  }
  void add(const ops::Context& c, const ops::Add& a) override { cpu::add(c, a); }
  void cast(const ops::Context& c, const ops::Cast& a) override { cpu::cast(c, a); }
  void squared_norm(const ops::Context& c, const ops::SquaredNorm& a) override {
    cpu::squared_norm(c, a);
  }
  void adamw(const ops::Context& c, const ops::AdamW& a) override { cpu::adamw(c, a); }
  void clip_scale(const ops::Context& c, const ops::ClipScale& a) override {
    cpu::clip_scale(c, a);
  }
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
