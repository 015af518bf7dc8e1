// One row of root-mean-square normalisation by one block.
#pragma once

#include "common.cuh"

namespace illume_fast::cuda {

constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / 32;

// Sum over the block, to all its threads. `scratch` holds a number for each warp, and is free again afterwards.
__device__ inline double norm_sum(double x, double* scratch) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int warp = 0; warp < kNormWarps; ++warp) x += scratch[warp];
  __syncthreads();
  return x;
}

// 1 / sqrt(mean(x^2) + eps). In double: the square of a large float32 overflows.
__device__ inline float inverse_rms(double squares, int64_t columns, float eps) {
  return static_cast<float>(1.0 / sqrt(squares / static_cast<double>(columns) + static_cast<double>(eps)));
}

// What illume_fast/rms_norm.h says of a forward row; `residual` and `sum` are null or not together.
template <typename T, int N>
__device__ void norm_row(const T* x, const T* residual, const T* weight, float eps, T* sum, T* out, int64_t columns,
                         double* scratch) {
  using V = Vector<T, N>;
  // a row is read twice, the second time from the cache: where there is a residual, its sum
  const T* source = residual == nullptr ? x : sum;
  double squares = 0;
  for (int64_t i = threadIdx.x * N; i < columns; i += kNormThreads * N) {
    V v = *reinterpret_cast<const V*>(x + i);
    if (residual != nullptr) {
      const V r = *reinterpret_cast<const V*>(residual + i);
      for (int k = 0; k < N; ++k) v.values[k] = from_float<T>(to_float(v.values[k]) + to_float(r.values[k]));
      *reinterpret_cast<V*>(sum + i) = v;
    }
    for (int k = 0; k < N; ++k) {
      const double value = to_float(v.values[k]);
      squares += value * value;
    }
  }
  const float inverse = inverse_rms(norm_sum(squares, scratch), columns, eps);
  for (int64_t i = threadIdx.x * N; i < columns; i += kNormThreads * N) {
    V v = *reinterpret_cast<const V*>(source + i);
    const V w = *reinterpret_cast<const V*>(weight + i);
    for (int k = 0; k < N; ++k) {
      const T normal = from_float<T>(to_float(v.values[k]) * inverse);
      v.values[k] = from_float<T>(to_float(normal) * to_float(w.values[k]));
    }
    *reinterpret_cast<V*>(out + i) = v;
  }
}

// The gradient of x of one packed row; `grad_sum` may be null. Returns 1 / rms of the row.
template <typename T, int N>
__device__ float norm_row_backward(const T* grad, const T* grad_sum, const T* x, const T* weight, float eps, T* grad_x,
                                   int64_t columns, double* scratch) {
  using V = Vector<T, N>;
  double squares = 0, dot = 0;
  for (int64_t i = threadIdx.x * N; i < columns; i += kNormThreads * N) {
    const V v = *reinterpret_cast<const V*>(x + i), g = *reinterpret_cast<const V*>(grad + i);
    const V w = *reinterpret_cast<const V*>(weight + i);
    for (int k = 0; k < N; ++k) {
      const double value = to_float(v.values[k]);
      squares += value * value;
      dot += value * to_float(g.values[k]) * to_float(w.values[k]);
    }
  }
  const float inverse = inverse_rms(norm_sum(squares, scratch), columns, eps);
  const auto mean = static_cast<float>(norm_sum(dot, scratch) * inverse / static_cast<double>(columns));
  for (int64_t i = threadIdx.x * N; i < columns; i += kNormThreads * N) {
    V v = *reinterpret_cast<const V*>(x + i);
    const V g = *reinterpret_cast<const V*>(grad + i), w = *reinterpret_cast<const V*>(weight + i);
    V more{};
    if (grad_sum != nullptr) more = *reinterpret_cast<const V*>(grad_sum + i);
    for (int k = 0; k < N; ++k) {
      const float scaled = to_float(g.values[k]) * to_float(w.values[k]);
      const float own = inverse * (scaled - to_float(v.values[k]) * inverse * mean);
      v.values[k] = from_float<T>(grad_sum == nullptr ? own : own + to_float(more.values[k]));
    }
    *reinterpret_cast<V*>(grad_x + i) = v;
  }
  return inverse;
}

}  // namespace illume_fast::cuda
