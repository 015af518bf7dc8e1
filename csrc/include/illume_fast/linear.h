// Linear layers of a few rows: x times transposed weights that are read once, where they lie; sums in f32.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// Rows of x, as they are given to every layer.
struct LinearInput {
  const void* x;
  int64_t stride;
  int64_t rows;
  int64_t inputs;
};

// out[m * outputs + n] = sum over k of x[m * x.stride + k] * weight[n * weight_stride + k], plus bias[n] unless it is null.
struct LinearLayer {
  const void* weight;
  int64_t weight_stride;
  const void* bias;
  void* out;
  int64_t outputs;
};

// `count` layers of one x, all of one type. What a row gives depends on that row alone: neither on the rows beside it nor
// on the number of threads. Subnormal bf16 numbers may count as zero.
ILLUME_FAST_PER_ISA(void, linear, (DType dtype, LinearInput x, const LinearLayer* layers, int64_t count),
                    (dtype, x, layers, count))

// out = silu(x gate) * (x up), where both products are rounded to the type first; as two layers and swiglu_forward give it.
// The layers' biases and outs are not used.
ILLUME_FAST_PER_ISA(void, swiglu_linear,
                    (DType dtype, LinearInput x, const LinearLayer& gate, const LinearLayer& up, void* out),
                    (dtype, x, gate, up, out))

}  // namespace illume_fast
