#include "common.cuh"
#include "illume_fast/gelu.h"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 256;
// both forms are x or 0 beyond this
constexpr float kFar = 40.0f;

// NaN stays NaN
__device__ inline float clamped(float x) { return x > kFar ? kFar : x < -kFar ? -kFar : x; }

struct Exact {
  static __device__ float value(float x) { return x * normcdff(x); }
  static __device__ float slope(float x) {
    const float t = clamped(x);
    return normcdff(t) + t * (0.398942280f * expf(-0.5f * t * t));
  }
};

// x * sigmoid(a x + b x^3), which is the same as the form with tanh
struct ByTanh {
  static constexpr float kA = 1.5957691216057308f, kB = 0.071354816272600248f;

  static __device__ float share(float t) { return 1.0f / (1.0f + expf(-t * (kA + kB * t * t))); }
  static __device__ float value(float x) { return x * share(clamped(x)); }
  static __device__ float slope(float x) {
    const float t = clamped(x), s = share(t);
    return s + t * (kA + 3.0f * kB * t * t) * (s * (1.0f - s));
  }
};

// One thread handles N neighbouring elements.
template <typename Form, typename T, int N>
__global__ void __launch_bounds__(kThreads) forward_kernel(const T* x, T* out, int64_t vectors) {
  using V = Vector<T, N>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const V v = *reinterpret_cast<const V*>(x + i * N);
  V y;
#pragma unroll
  for (int k = 0; k < N; ++k) y.values[k] = from_float<T>(Form::value(to_float(v.values[k])));
  *reinterpret_cast<V*>(out + i * N) = y;
}

template <typename Form, typename T, int N>
__global__ void __launch_bounds__(kThreads) backward_kernel(const T* grad, const T* x, T* grad_x, int64_t vectors) {
  using V = Vector<T, N>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= vectors) return;
  const V d = *reinterpret_cast<const V*>(grad + i * N);
  const V v = *reinterpret_cast<const V*>(x + i * N);
  V y;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    y.values[k] = from_float<T>(to_float(d.values[k]) * Form::slope(to_float(v.values[k])));
  }
  *reinterpret_cast<V*>(grad_x + i * N) = y;
}

// Calls launch(width, blocks, vectors) with as wide accesses as these addresses allow.
template <typename T, typename F>
int with_width(int64_t n, bool aligned, F&& launch) {
  const auto run = [&](auto width) {
    const int64_t vectors = n / decltype(width)::value;
    launch(width, static_cast<unsigned>(ceil_div(vectors, kThreads)), vectors);
    return static_cast<int>(cudaGetLastError());
  };
  return aligned && n % kVectorWidth<T> == 0 ? run(Width<kVectorWidth<T>>{}) : run(Width<1>{});
}

template <typename Form, typename T>
int forward(const T* x, T* out, int64_t n, cudaStream_t stream) {
  return with_width<T>(n, is_aligned(x, 16) && is_aligned(out, 16), [=](auto width, unsigned blocks, int64_t vectors) {
    forward_kernel<Form, T, decltype(width)::value><<<blocks, kThreads, 0, stream>>>(x, out, vectors);
  });
}

template <typename Form, typename T>
int backward(const T* grad, const T* x, T* grad_x, int64_t n, cudaStream_t stream) {
  const bool aligned = is_aligned(grad, 16) && is_aligned(x, 16) && is_aligned(grad_x, 16);
  return with_width<T>(n, aligned, [=](auto width, unsigned blocks, int64_t vectors) {
    backward_kernel<Form, T, decltype(width)::value><<<blocks, kThreads, 0, stream>>>(grad, x, grad_x, vectors);
  });
}

}  // namespace

int gelu_forward(DType dtype, const void* x, void* out, int64_t n, bool tanh, Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto run = tanh ? forward<ByTanh, T> : forward<Exact, T>;
    return run(static_cast<const T*>(x), static_cast<T*>(out), n, static_cast<cudaStream_t>(stream));
  });
}

int gelu_backward(DType dtype, const void* grad, const void* x, void* grad_x, int64_t n, bool tanh, Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto run = tanh ? backward<ByTanh, T> : backward<Exact, T>;
    return run(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), n,
               static_cast<cudaStream_t>(stream));
  });
}

}  // namespace illume_fast::cuda
