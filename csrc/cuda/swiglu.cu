#include "common.cuh"
#include "illume_fast/swiglu.h"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 256;

// What storage type T can tell apart: of a large x the quick exponential is off by more than a rounding of float32.
template <typename T>
__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + (std::is_same_v<T, float> ? expf(-x) : __expf(-x)));
}

// One thread handles N neighbouring elements of one row; 64-bit indices since rows * columns passes 2^31.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, T* out, int64_t vectors,
                   int64_t vectors_per_row) {
  using V = Vector<T, N>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const int64_t row = i / vectors_per_row, column = i % vectors_per_row * N;
  const V g = *reinterpret_cast<const V*>(gate + row * gate_stride + column);
  const V u = *reinterpret_cast<const V*>(up + row * up_stride + column);
  V y;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float x = to_float(g.values[k]);
    y.values[k] = from_float<T>(x * sigmoid<T>(x) * to_float(u.values[k]));
  }
  *reinterpret_cast<V*>(out + i * N) = y;
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* grad, const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, T* grad_gate,
                    T* grad_up, int64_t vectors, int64_t vectors_per_row) {
  using V = Vector<T, N>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const int64_t row = i / vectors_per_row, column = i % vectors_per_row * N;
  const V d = *reinterpret_cast<const V*>(grad + i * N);
  const V g = *reinterpret_cast<const V*>(gate + row * gate_stride + column);
  const V u = *reinterpret_cast<const V*>(up + row * up_stride + column);
  V dg, du;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float dy = to_float(d.values[k]), x = to_float(g.values[k]), s = sigmoid<T>(x);
    // dy last: its product with a large number is infinite, and s may be 0
    dg.values[k] = from_float<T>(dy * (to_float(u.values[k]) * (s * (1.0f + x * (1.0f - s)))));
    du.values[k] = from_float<T>(dy * (x * s));
  }
  *reinterpret_cast<V*>(grad_gate + i * N) = dg;
  *reinterpret_cast<V*>(grad_up + i * N) = du;
}

template <typename T>
bool rows_are_aligned(const void* base, int64_t stride) {
  return is_aligned(base, 16) && stride % kVectorWidth<T> == 0;
}

}  // namespace

int swiglu_forward(DType dtype, const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, void* out,
                   int64_t rows, int64_t columns, Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto launch = [=](auto width) {
      constexpr int n = decltype(width)::value;
      const int64_t vectors = rows * columns / n;
      const unsigned blocks = static_cast<unsigned>(ceil_div(vectors, kThreads));
      forward_kernel<T, n><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          static_cast<const T*>(gate), gate_stride, static_cast<const T*>(up), up_stride, static_cast<T*>(out), vectors,
          columns / n);
      return static_cast<int>(cudaGetLastError());
    };
    const bool wide = columns % kVectorWidth<T> == 0 && is_aligned(out, 16) && rows_are_aligned<T>(gate, gate_stride) &&
                      rows_are_aligned<T>(up, up_stride);
    return wide ? launch(Width<kVectorWidth<T>>{}) : launch(Width<1>{});
  });
}

int swiglu_backward(DType dtype, const void* grad, const void* gate, int64_t gate_stride, const void* up,
                    int64_t up_stride, void* grad_gate, void* grad_up, int64_t rows, int64_t columns, Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto launch = [=](auto width) {
      constexpr int n = decltype(width)::value;
      const int64_t vectors = rows * columns / n;
      const unsigned blocks = static_cast<unsigned>(ceil_div(vectors, kThreads));
      backward_kernel<T, n><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          static_cast<const T*>(grad), static_cast<const T*>(gate), gate_stride, static_cast<const T*>(up), up_stride,
          static_cast<T*>(grad_gate), static_cast<T*>(grad_up), vectors, columns / n);
      return static_cast<int>(cudaGetLastError());
    };
    const bool wide = columns % kVectorWidth<T> == 0 && is_aligned(grad, 16) && is_aligned(grad_gate, 16) &&
                      is_aligned(grad_up, 16) && rows_are_aligned<T>(gate, gate_stride) &&
                      rows_are_aligned<T>(up, up_stride);
    return wide ? launch(Width<kVectorWidth<T>>{}) : launch(Width<1>{});
  });
}

}  // namespace illume_fast::cuda
