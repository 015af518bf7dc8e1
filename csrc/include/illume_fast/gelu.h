// GELU: x * P(a standard normal number <= x), elementwise, or its approximation by tanh; arithmetic in f32.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// n contiguous elements. `tanh`: the approximation x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
ILLUME_FAST_PER_ISA(void, gelu_forward, (DType dtype, const void* x, void* out, int64_t n, bool tanh),
                    (dtype, x, out, n, tanh))

// The gradient of x from that of out.
ILLUME_FAST_PER_ISA(void, gelu_backward,
                    (DType dtype, const void* grad, const void* x, void* grad_x, int64_t n, bool tanh),
                    (dtype, grad, x, grad_x, n, tanh))

namespace cuda {

// The same on a GPU. Both return 0 or CUDA's error code, of the launch alone; n > 0.
int gelu_forward(DType dtype, const void* x, void* out, int64_t n, bool tanh, Stream stream);
int gelu_backward(DType dtype, const void* grad, const void* x, void* grad_x, int64_t n, bool tanh, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
