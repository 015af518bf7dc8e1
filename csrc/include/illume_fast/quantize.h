// What vector quantisation does with the codes that were found, forward and backward. The contract is in
// illume_fast/ops/quantize.py.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// Vectors and the codes they chose: rows of `size` contiguous numbers, those of x `stride` apart, those of the codebook
// packed; ids in [0, codes).
struct Quantized {
  DType dtype;
  const void* x;
  int64_t stride;
  DType codebook_dtype;
  const void* codebook;
  const int64_t* ids;
  int64_t rows, size, codes;
};

// All return -1, or the first row whose id is out of range, and have then written nothing.

// values [rows, size] are the codes in x's dtype; error and error_again [rows] the mean square of code - x.
ILLUME_FAST_PER_ISA(int64_t, quantize_forward, (const Quantized& q, void* values, float* error, float* error_again),
                    (q, values, error, error_again))

// The gradient of x, packed, from those of values, packed, and of error, either of which may be null. `rotate`: that of
// values is turned as the code would turn into x, and scaled, else it is passed on.
ILLUME_FAST_PER_ISA(int64_t, quantize_backward,
                    (const Quantized& q, bool rotate, const void* grad, const float* error_grad, void* grad_x),
                    (q, rotate, grad, error_grad, grad_x))

// The gradient of the codebook, in its dtype, from that of error_again; `ends` [codes] and `order` [rows] are workspace.
ILLUME_FAST_PER_ISA(int64_t, quantize_codebook_gradient,
                    (const Quantized& q, const float* error_grad, int64_t* ends, int64_t* order, void* grad_codebook),
                    (q, error_grad, ends, order, grad_codebook))

}  // namespace illume_fast
