// Opening devices; see device.h. The only caller of dlopen for plug-ins.
#include "runtime/device/device.h"

#include <dlfcn.h>
#include <fmt/core.h>
#include <omp.h>

#include <utility>

#include "base/file.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops/profile.h"
#include "runtime/device/plugin_abi.h"

namespace dsv3::device {

Device::Device(std::string kind, std::unique_ptr<ops::Backend> backend, void* library)
    : kind_(std::move(kind)), backend_(std::move(backend)), library_(library) {
  DSV3_CHECK(backend_ != nullptr);
}

Device::~Device() {
  backend_.reset();  // its code lives in the library
  if (library_) dlclose(library_);
}

void Device::profile_into(ops::Profile* profile) {
  profiler_.reset();
  if (profile) profiler_ = std::make_unique<ops::ProfilingBackend>(*backend_, *profile);
}

std::string Device::description() const {
  if (kind_ != "cpu") return kind_;
  const int threads = omp_get_max_threads();
  return fmt::format("cpu ({} thread{})", threads, threads == 1 ? "" : "s");
}

namespace {

Result<std::unique_ptr<Device>> open_plugin(const std::string& kind, const std::string& file) {
  const std::string path = executable_dir() + "/" + file;
  if (!path_exists(path)) {
    return Status(Code::kDevice, fmt::format("the {} plug-in {} is not there", kind, path),
                  "build with the CUDA toolkit installed, or set cluster.devices to cpu");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    return Status(Code::kDevice, fmt::format("cannot open the {} plug-in: {}", kind, dlerror()),
                  "install the libraries it names, or set cluster.devices to cpu");
  }
  const auto create = reinterpret_cast<Dsv3BackendCreateV2>(dlsym(library, kCreateSymbol));
  if (!create) {
    dlclose(library);
    return Status(Code::kDevice, fmt::format("{} has no symbol {}", path, kCreateSymbol),
                  "it belongs to another version: rebuild it");
  }
  char error[512] = "";
  std::unique_ptr<ops::Backend> backend(create(error, sizeof error));
  if (!backend) {
    dlclose(library);
    return Status(Code::kDevice, fmt::format("{}: {}", kind, error),
                  "check the driver (nvidia-smi), or set cluster.devices to cpu");
  }
  return std::make_unique<Device>(kind, std::move(backend), library);
}

}  // namespace

Result<std::unique_ptr<Device>> open_device(const std::string& kind) {
  if (kind == "cpu") {
    DSV3_ASSIGN_OR_RETURN(std::unique_ptr<ops::Backend> backend, cpu::create_backend());
    return std::make_unique<Device>(kind, std::move(backend));
  }
  if (kind == "cuda") return open_plugin(kind, kCudaPlugin);
  return Status(Code::kInvalid, fmt::format("no device is called '{}'", kind),
                "cluster.devices is cpu or cuda");
}

}  // namespace dsv3::device
