#include "illume_fast/rope.h"

#include "common.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 256;

// One thread turns N neighbouring pairs of one head; heads of q come first, then those of k.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(const Heads q, const Heads k, const float* cos, const float* sin, int64_t table_rows, T* q_out, T* k_out,
                int64_t items, int64_t half) {
  using V = Vector<T, N>;
  using F = Vector<float, N>;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= items) return;
  const int64_t per_head = half / N, heads = q.count + k.count;
  const int64_t pair = i % per_head * N, head = i / per_head % heads, token = i / per_head / heads;
  const bool is_q = head < q.count;
  const Heads& from = is_q ? q : k;
  const int64_t own = is_q ? head : head - q.count;
  const T* in = static_cast<const T*>(from.data) + token * from.token_stride + own * from.head_stride + pair;
  T* out = (is_q ? q_out : k_out) + (token * from.count + own) * 2 * half + pair;
  const int64_t angle = token % table_rows * half + pair;
  const V first = *reinterpret_cast<const V*>(in), second = *reinterpret_cast<const V*>(in + half);
  const F c = *reinterpret_cast<const F*>(cos + angle), s = *reinterpret_cast<const F*>(sin + angle);
  V a, b;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float x = to_float(first.values[n]), y = to_float(second.values[n]);
    a.values[n] = from_float<T>(x * c.values[n] - y * s.values[n]);
    b.values[n] = from_float<T>(y * c.values[n] + x * s.values[n]);
  }
  *reinterpret_cast<V*>(out) = a;
  *reinterpret_cast<V*>(out + half) = b;
}

template <typename T>
bool is_wide(const Heads& heads, int width) {
  const int64_t bytes = width * static_cast<int64_t>(sizeof(T));
  return is_aligned(heads.data, bytes) && heads.token_stride % width == 0 && heads.head_stride % width == 0;
}

}  // namespace

int rope(DType dtype, Heads q, Heads k, const float* cos, const float* sin, int64_t table_rows, void* q_out, void* k_out,
         int64_t tokens, int64_t half, Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto launch = [=](auto width) {
      constexpr int n = decltype(width)::value;
      const int64_t items = tokens * (q.count + k.count) * (half / n);
      rope_kernel<T, n><<<static_cast<unsigned>(ceil_div(items, kThreads)), kThreads, 0,
                          static_cast<cudaStream_t>(stream)>>>(q, k, cos, sin, table_rows, static_cast<T*>(q_out),
                                                               static_cast<T*>(k_out), items, half);
      return static_cast<int>(cudaGetLastError());
    };
    constexpr int wide = 4;
    const bool aligned = half % wide == 0 && is_wide<T>(q, wide) && is_wide<T>(k, wide) && is_aligned(cos, 16) &&
                         is_aligned(sin, 16) && is_aligned(q_out, wide * sizeof(T)) &&
                         is_aligned(k_out, wide * sizeof(T));
    return aligned ? launch(Width<wide>{}) : launch(Width<1>{});
  });
}

}  // namespace illume_fast::cuda
