// Kernel calls kept to be made again, all of them in one call from Python: for the CPU what a CUDA graph is for a GPU.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace illume_fast {

class Recording {
 public:
  using Call = std::function<bool()>;  // whether the kernel did its work

  // The one that the calling thread records to, or null.
  static Recording* current();
  static void set_current(Recording* recording);

  // `name` is of a kernel, and outlives the recording.
  void add(const char* name, Call call) {
    names_.push_back(name);
    calls_.push_back(std::move(call));
  }
  int64_t size() const { return static_cast<int64_t>(calls_.size()); }

  // Makes the calls in order, with the same arguments, by threads that stay awake from one to the next. Returns -1, or the
  // number of the call that did not do its work; those after it are not made.
  int64_t replay() const { return run(nullptr); }

  // Replays, and says which kernel took how many seconds, in order.
  std::vector<std::pair<const char*, double>> profile() const;

  const char* name(int64_t call) const { return names_[static_cast<size_t>(call)]; }

 private:
  int64_t run(double* seconds) const;

  std::vector<const char*> names_;
  std::vector<Call> calls_;
};

// Adds its life to the time spent in kernels by all threads of the process.
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
