// Kernel calls kept to be made again, all of them in one call from Python: for the CPU what a CUDA graph is for a GPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace illume_fast {

class Recording {
 public:
  using Call = std::function<bool()>;  // whether the kernel did its work

  // The one that the calling thread records to, or null.
  static Recording* current();

  // The calling thread records to it, and so keeps it alive, until it stops. Throws std::logic_error if that thread
  // records already, or any other to this one.
  static void start(std::shared_ptr<Recording> recording);

  // Throws std::logic_error if the calling thread does not record to this one.
  void stop();

  // `name` is of a kernel, and outlives the recording.
  void add(const char* name, Call call) {
    names_.push_back(name);
    calls_.push_back(std::move(call));
  }
  int64_t size() const { return static_cast<int64_t>(calls_.size()); }

  // Makes the calls in order, with the same arguments, by threads that stay awake from one to the next. Those after one
  // that did not do its work are not made. Throws std::runtime_error, naming that kernel; std::logic_error while this one
  // is recorded, or while the calling thread records: what is replayed would be missing there; and what a call throws.
  void replay() const { run(nullptr); }

  // Replays, and says which kernel took how many seconds, in order.
  std::vector<std::pair<const char*, double>> profile() const;

 private:
  void run(double* seconds) const;

  std::vector<const char*> names_;
  std::vector<Call> calls_;
  std::atomic<bool> open_{false};
};

}  // namespace illume_fast
