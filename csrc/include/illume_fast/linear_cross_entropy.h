// Cross entropy of linear logits, x times a transposed weight, without ever holding them all.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// For m < rows: with logits[n] = sum over k of x[m * x_stride + k] * weight[n * weight_stride + k], n < outputs, in f32,
// normalizers[m] = log(sum of exp(logits)) and losses[m] = normalizers[m] - logits[labels[m]]. Labels lie in
// [0, outputs). The same for any number of threads. False if there is no memory for the sums of parts.
ILLUME_FAST_PER_ISA(bool, linear_cross_entropy,
                    (DType dtype, const void* x, int64_t x_stride, int64_t rows, const void* weight,
                     int64_t weight_stride, const int64_t* labels, float* losses, float* normalizers, int64_t outputs,
                     int64_t inputs),
                    (dtype, x, x_stride, rows, weight, weight_stride, labels, losses, normalizers, outputs, inputs))

// What the gradients of the losses, grads[m], make of the logits of `outputs` rows of the weight from `first` on:
// out[m * outputs + n] = grads[m] * (exp(logits[n] - normalizers[m]) - (labels[m] == first + n)). `weight` is the first
// of these rows.
ILLUME_FAST_PER_ISA(void, linear_cross_entropy_logit_gradients,
                    (DType dtype, const void* x, int64_t x_stride, int64_t rows, const void* weight,
                     int64_t weight_stride, const int64_t* labels, const float* normalizers, const float* grads,
                     void* out, int64_t first, int64_t outputs, int64_t inputs),
                    (dtype, x, x_stride, rows, weight, weight_stride, labels, normalizers, grads, out, first, outputs,
                     inputs))

}  // namespace illume_fast
