// NVML, opened at run time: the few functions that the probe needs, declared here, so that nothing
// is linked or included.
//
// Law: a machine without a driver is not an error but a note. Signatures and constants are those of
// NVML's published ABI.
#include <dlfcn.h>
#include <fmt/format.h>

#include "cluster/inventory/inventory.h"

namespace dsv3::inventory {
namespace {

using NvmlDevice = void*;
struct NvmlMemory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
constexpr int kNvmlSuccess = 0;
constexpr unsigned kNameSize = 96;

// Closes and shuts down whatever was opened.
class Nvml {
 public:
  // "" when ready, else why not.
  std::string open() {
    library_ = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) return "no NVIDIA driver (libnvidia-ml.so.1 is absent)";
    const bool complete = load("nvmlInit_v2", &init) && load("nvmlShutdown", &shutdown) &&
                          load("nvmlDeviceGetCount_v2", &count) &&
                          load("nvmlDeviceGetHandleByIndex_v2", &handle) &&
                          load("nvmlDeviceGetName", &name) && load("nvmlDeviceGetUUID", &uuid) &&
                          load("nvmlDeviceGetMemoryInfo", &memory) &&
                          load("nvmlDeviceGetCudaComputeCapability", &capability);
    if (!complete) return "libnvidia-ml.so.1 lacks a function (driver too old)";
    const int error = init();
    ready_ = error == kNvmlSuccess;
    return ready_ ? "" : fmt::format("NVML does not start (error {})", error);
  }
  ~Nvml() {
    if (ready_) shutdown();
    if (library_ != nullptr) ::dlclose(library_);
  }

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*handle)(unsigned, NvmlDevice*) = nullptr;
  int (*name)(NvmlDevice, char*, unsigned) = nullptr;
  int (*uuid)(NvmlDevice, char*, unsigned) = nullptr;
  int (*memory)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*capability)(NvmlDevice, int*, int*) = nullptr;

 private:
  template <typename Function>
  bool load(const char* symbol, Function* function) {
    *function = reinterpret_cast<Function>(::dlsym(library_, symbol));
    return *function != nullptr;
  }
  void* library_ = nullptr;
  bool ready_ = false;
};

}  // namespace

std::string try_library(const std::string& path, const char* symbol) {
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = ::dlerror();
    return why != nullptr ? why : "it cannot be loaded";
  }
  const bool found = ::dlsym(library, symbol) != nullptr;
  ::dlclose(library);
  return found ? "" : fmt::format("it has no symbol {} (another version)", symbol);
}

std::vector<plan::Device> probe_gpus(std::string* note) {
  Nvml nvml;
  *note = nvml.open();
  if (!note->empty()) return {};
  unsigned count = 0;
  if (nvml.count(&count) != kNvmlSuccess) count = 0;
  std::vector<plan::Device> gpus;
  for (unsigned i = 0; i < count; ++i) {
    NvmlDevice handle = nullptr;
    NvmlMemory memory{};
    if (nvml.handle(i, &handle) != kNvmlSuccess) continue;
    if (nvml.memory(handle, &memory) != kNvmlSuccess) continue;
    char name[kNameSize] = {};
    char uuid[kNameSize] = {};
    int major = 0;
    int minor = 0;
    (void)nvml.name(handle, name, sizeof name - 1);
    (void)nvml.uuid(handle, uuid, sizeof uuid - 1);
    (void)nvml.capability(handle, &major, &minor);
    plan::Device gpu{.kind = plan::DeviceKind::kCuda, .name = name, .uuid = uuid};
    gpu.memory_bytes = static_cast<int64_t>(memory.total);
    gpu.sm_version = 10 * major + minor;
    gpus.push_back(std::move(gpu));
  }
  if (gpus.empty()) *note = "the NVIDIA driver shows no GPU";
  return gpus;
}

}  // namespace dsv3::inventory
