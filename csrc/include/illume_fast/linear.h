// Linear layers of a few rows: x times a transposed weight that is read once, where it lies; sums in f32.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// out[m * outputs + n] = sum over k of x[m * x_stride + k] * weight[n * weight_stride + k], plus bias[n] unless it is
// null, for m < rows, n < outputs, k < inputs; all of one type. What a row gives depends on that row alone: neither on
// the rows beside it nor on the number of threads. Subnormal bf16 numbers may count as zero. False without memory.
ILLUME_FAST_PER_ISA(void, linear,
                    (DType dtype, const void* x, int64_t x_stride, int64_t rows, const void* weight,
                     int64_t weight_stride, const void* bias, void* out, int64_t outputs, int64_t inputs),
                    (dtype, x, x_stride, rows, weight, weight_stride, bias, out, outputs, inputs))

}  // namespace illume_fast
