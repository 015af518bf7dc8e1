// Time that all threads of the process have spent in kernels.
#pragma once

#include <chrono>

namespace illume_fast {

// Adds its life to the time.
class KernelTime {
 public:
  KernelTime() : start_(std::chrono::steady_clock::now()) {}
  ~KernelTime();
  KernelTime(const KernelTime&) = delete;
  KernelTime& operator=(const KernelTime&) = delete;

  static double seconds();

 private:
  std::chrono::steady_clock::time_point start_;
};

}  // namespace illume_fast
