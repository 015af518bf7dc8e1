// Storage types of tensor elements. Only names and sizes live here: arithmetic is in csrc/cpu/simd.h and csrc/cuda/.
#pragma once

#include <cstdint>

namespace illume_fast {

// The numbers are what kernels/native.py passes.
enum class DType : int { f32 = 0, bf16 = 1, f16 = 2 };

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

}  // namespace illume_fast
