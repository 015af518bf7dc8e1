// Memory that a thread keeps for its next call: fresh pages would cost more than the work done in them.
#pragma once

#include <cstdint>
#include <cstdlib>

#ifndef ILLUME_FAST_ISA_NS
#error "compile this file through CMake, which defines ILLUME_FAST_ISA_NS"
#endif

namespace illume_fast::ILLUME_FAST_ISA_NS {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  // At least `bytes`, aligned for any type, with whatever was in it; null if there is no memory.
  void* reserve(int64_t bytes) {
    if (bytes > room_) {
      std::free(memory_);
      memory_ = std::malloc(static_cast<size_t>(bytes));
      room_ = memory_ == nullptr ? 0 : bytes;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  int64_t room_ = 0;
};

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
