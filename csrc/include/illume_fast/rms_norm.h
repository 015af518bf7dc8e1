// Root-mean-square normalisation of rows, alone or after a residual sum; arithmetic in f32.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// out = weight * x / sqrt(mean(x^2) + eps), row by row; the normalised row is rounded to the dtype before it meets the
// weight. With a residual, x + residual takes the place of x and goes to `sum`; else both are null. Rows have `columns`
// contiguous elements; those of x and residual lie their strides apart, those of sum and out are packed.
ILLUME_FAST_PER_ISA(void, rms_norm_forward,
                    (DType dtype, const void* x, int64_t x_stride, const void* residual, int64_t residual_stride,
                     const void* weight, float eps, void* sum, void* out, int64_t rows, int64_t columns),
                    (dtype, x, x_stride, residual, residual_stride, weight, eps, sum, out, rows, columns))

// The gradients of x and weight from that of out; grad_sum, null or packed, is added to x's. All rows are packed.
// grad_weight is the same whatever the number of threads.
ILLUME_FAST_PER_ISA(void, rms_norm_backward,
                    (DType dtype, const void* grad, const void* grad_sum, const void* x, const void* weight, float eps,
                     void* grad_x, void* grad_weight, int64_t rows, int64_t columns),
                    (dtype, grad, grad_sum, x, weight, eps, grad_x, grad_weight, rows, columns))

namespace cuda {

constexpr int64_t kRmsNormParts = 64;

// The same on a GPU. Both return 0 or CUDA's error code, of the launch alone; rows * columns > 0. The backward pass works
// in `inverses` [rows] and `parts` [kRmsNormParts, columns].
int rms_norm_forward(DType dtype, const void* x, int64_t x_stride, const void* residual, int64_t residual_stride,
                     const void* weight, float eps, void* sum, void* out, int64_t rows, int64_t columns, Stream stream);
int rms_norm_backward(DType dtype, const void* grad, const void* grad_sum, const void* x, const void* weight, float eps,
                      void* grad_x, void* grad_weight, float* inverses, float* parts, int64_t rows, int64_t columns,
                      Stream stream);

}  // namespace cuda

}  // namespace illume_fast
