// The nearest row of a codebook. The contract is in illume_fast/ops/nearest_code.py.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

enum class Metric : int { l2 = 0, cosine = 1, dot = 2 };

constexpr int64_t kPanelCodes = 32;   // codes stored side by side
constexpr int64_t kBlockCodes = 128;  // codes of whose scores only the best is kept

// A codebook as the kernel reads it, every instruction set alike. `count` codes of `size` numbers fill
// blocks = ceil(count / kBlockCodes) blocks, the last one padded.
struct PackedCodes {
  const float* codes;  // [count, size], as given
  int64_t count, size;
  const float* panels;   // [blocks * kBlockCodes / kPanelCodes, size, kPanelCodes]: l2 less center, cosine of length 1
  const uint32_t* pairs;  // [blocks * kBlockCodes / kPanelCodes, ceil(size / 2), kPanelCodes]: the same rounded to bfloat16,
                          // two numbers of a code in a word, the earlier one low; 0 after an odd last one
  const float* offsets;  // [blocks * kBlockCodes]: l2 minus half the squared length, else 0; -inf: never to be chosen
  const float* longest;  // [blocks]: no less than any length in it; inf where float32 does not hold the scores
  const float* errors;   // [blocks]: no less than the length of what rounding to bfloat16 took from any code in it
  const float* center;   // [size]
};

// Fills the arrays of PackedCodes.
ILLUME_FAST_PER_ISA(void, nearest_code_pack,
                    (Metric metric, const float* codes, int64_t count, int64_t size, float* panels, uint32_t* pairs,
                     float* offsets, float* longest, float* errors, float* center),
                    (metric, codes, count, size, panels, pairs, offsets, longest, errors, center))

// outer x inner vectors, whose elements lie `stride` apart. Writes an id, or -1, for each. False: no memory.
ILLUME_FAST_PER_ISA(bool, nearest_code,
                    (Metric metric, DType dtype, const void* x, int64_t outer, int64_t outer_stride, int64_t inner,
                     int64_t inner_stride, int64_t stride, const PackedCodes& codebook, int64_t* ids),
                    (metric, dtype, x, outer, outer_stride, inner, inner_stride, stride, codebook, ids))

namespace cuda {

constexpr int64_t kGpuBlockCodes = 64;  // codes of whose scores only the best is kept

// A codebook as the GPU's kernel reads it. `blocks` blocks of codes hold `count` codes and padding.
struct GpuCodes {
  const float* codes;  // [count, size], as given
  int64_t count, size, width, blocks;  // width: size and zeros to a multiple of 16
  const void* rounded;                 // bfloat16 [blocks * kGpuBlockCodes, width]: l2 less center, cosine of length 1
  const float* offsets;                // [blocks * kGpuBlockCodes]: as in PackedCodes
  const float* longest;                // [blocks]: as in PackedCodes
  const float* errors;                 // [blocks]: no less than the length of what rounding took from any code in it
  const float* center;                 // [size]
  float longest_of_all;
};

// Room for a search of some queries, which the caller provides.
struct SearchRoom {
  void* rounded;           // bfloat16 [queries, width]
  float *lengths, *errors;  // [queries]
  float* best;             // [queries, blocks]
};

// The same on a GPU: vectors are read as by the CPU's nearest_code. Returns 0 or CUDA's error code, of the launches alone;
// there are queries, codes and numbers in them.
int nearest_code(Metric metric, DType dtype, const void* x, int64_t outer, int64_t outer_stride, int64_t inner,
                 int64_t inner_stride, int64_t stride, const GpuCodes& codebook, const SearchRoom& room, int64_t* ids,
                 Stream stream);

}  // namespace cuda

}  // namespace illume_fast
