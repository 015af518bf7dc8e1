// Group normalisation whose scale and shift are read from a map of codes; f32.
#pragma once

#include <cstdint>

#include "illume_fast/isa.h"

namespace illume_fast {

struct SpatialNorm {
  const float* x;       // [batch, rows, columns, channels], packed
  const float* weight;  // [channels], as is bias
  const float* bias;
  const float* scale;  // [batch, code_rows, code_columns, channels], cells `cell_stride` apart, as is shift
  const float* shift;
  int64_t cell_stride;
  float* out;  // like x
  int64_t batch, rows, columns, channels;
  int64_t code_rows, code_columns;  // divisors of rows and columns
  int64_t groups;                   // a divisor of channels
  float eps;
  bool silu;
};

// out = norm(x) * scale + shift, through silu if asked for. Bits depend neither on the threads nor on other pictures.
ILLUME_FAST_PER_ISA(void, spatial_norm, (const SpatialNorm& p), (p))

}  // namespace illume_fast
