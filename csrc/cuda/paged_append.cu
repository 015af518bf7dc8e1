#include "paged_append.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, typename C>
__global__ void __launch_bounds__(kThreads)
    append_kernel(const Heads k, const Heads v, const PagedCache cache, const Indices rows, const Indices positions,
                  int64_t items) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < items) append_element<T, C>(k, v, cache, rows, positions, i);
}

}  // namespace

int paged_append(DType dtype, Heads k, Heads v, const PagedCache& cache, Indices rows, Indices positions, int64_t tokens,
                 Stream stream) {
  const int64_t items = tokens * cache.heads * cache.size;
  return with_dtype(dtype, [&](auto tag) {
    return with_dtype(cache.dtype, [&](auto cache_tag) {
      append_kernel<decltype(tag), decltype(cache_tag)>
          <<<static_cast<unsigned>(ceil_div(items, kThreads)), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
              k, v, cache, rows, positions, items);
      return static_cast<int>(cudaGetLastError());
    });
  });
}

}  // namespace illume_fast::cuda
