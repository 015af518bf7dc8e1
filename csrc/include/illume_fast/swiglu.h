// SwiGLU: silu(gate) * up, elementwise; arithmetic in f32.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// Rows of `columns` contiguous elements; consecutive rows of gate and up lie gate_stride and up_stride elements apart,
// those of out are packed.
ILLUME_FAST_PER_ISA(void, swiglu_forward,
                    (DType dtype, const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, void* out,
                     int64_t rows, int64_t columns),
                    (dtype, gate, gate_stride, up, up_stride, out, rows, columns))

// The gradients of gate and up, packed, from that of out, packed.
ILLUME_FAST_PER_ISA(void, swiglu_backward,
                    (DType dtype, const void* grad, const void* gate, int64_t gate_stride, const void* up,
                     int64_t up_stride, void* grad_gate, void* grad_up, int64_t rows, int64_t columns),
                    (dtype, grad, gate, gate_stride, up, up_stride, grad_gate, grad_up, rows, columns))

namespace cuda {

// The same on a GPU. Both return 0 or CUDA's error code, of the launch alone; rows * columns > 0.
int swiglu_forward(DType dtype, const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, void* out,
                   int64_t rows, int64_t columns, Stream stream);
int swiglu_backward(DType dtype, const void* grad, const void* gate, int64_t gate_stride, const void* up,
                    int64_t up_stride, void* grad_gate, void* grad_up, int64_t rows, int64_t columns, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
