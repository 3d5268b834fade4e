// Device: one back end with the stream that this process's work runs on.
//
// Law: missing hardware is an object. open_device() either gives a device that works or a sentence
// that names what is missing; callers never ask which kind it is to decide how to compute.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "kernels/ops/backend.h"

namespace dsv3::ops {
class Profile;
}

namespace dsv3::device {

// Owns a back end and, for a plug-in, keeps its library open. Not copyable; outlives every arena
// made on it.
class Device {
 public:
  Device(std::string kind, std::unique_ptr<ops::Backend> backend, void* library = nullptr);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& kind() const { return kind_; }  // "cpu", "cuda", …
  ops::Backend& backend() const { return profiler_ ? *profiler_ : *backend_; }
  ops::Stream stream() const { return nullptr; }  // the back end's default queue
  // "cpu (2 threads)": for people.
  std::string description() const;
  // Waits for all work queued on this device; throws Failure(kDevice).
  void synchronize() const { backend_->synchronize(stream()); }
  // From now on backend() notes every op in `profile` (kernels/ops/profile.h), which outlives that;
  // null: no longer. Between steps only: contexts that were made before keep the other back end.
  void profile_into(ops::Profile* profile);

 private:
  std::string kind_;
  std::unique_ptr<ops::Backend> backend_;
  std::unique_ptr<ops::Backend> profiler_;  // around backend_; null: nobody measures
  void* library_;                           // dlopen handle; null when built in
};

// Opens "cpu" (built in) or "cuda" (libdsv3_cuda.so beside the executable). kDevice names the
// library, symbol, driver or instruction set that is missing; kInvalid for another kind.
Result<std::unique_ptr<Device>> open_device(const std::string& kind);

}  // namespace dsv3::device
