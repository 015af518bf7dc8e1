#include "illume_fast/paged_append.h"

#include "common.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline int64_t number(const Indices& indices, int64_t i) {
  return indices.wide ? static_cast<const int64_t*>(indices.data)[i] : static_cast<const int32_t*>(indices.data)[i];
}

// One thread writes one element of a key and of a value. Nothing can be raised from here: a token out of range is left
// out, and its attention will say so.
template <typename T, typename C>
__global__ void __launch_bounds__(kThreads)
    append_kernel(const Heads k, const Heads v, const PagedCache cache, const Indices rows, const Indices positions,
                  int64_t items) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= items) return;
  const int64_t d = i % cache.size, head = i / cache.size % cache.heads, token = i / cache.size / cache.heads;
  const int64_t row = number(rows, token), position = number(positions, token);
  if (row < 0 || row >= cache.table_rows || position < 0 || position >= cache.max_pages * cache.page_size) return;
  const int64_t page = cache.table[row * cache.table_stride + position / cache.page_size];
  if (page < 0 || page >= cache.num_pages) return;
  const int64_t to = ((page * cache.page_size + position % cache.page_size) * cache.heads + head) * cache.size + d;
  const T* key = static_cast<const T*>(k.data) + token * k.token_stride + head * k.head_stride + d;
  const T* value = static_cast<const T*>(v.data) + token * v.token_stride + head * v.head_stride + d;
  static_cast<C*>(cache.k)[to] = from_float<C>(to_float(*key));
  static_cast<C*>(cache.v)[to] = from_float<C>(to_float(*value));
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
