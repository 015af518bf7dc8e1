// One element of a new key and of its value, on their way into the cache.
#pragma once

#include "common.cuh"
#include "illume_fast/paged_append.h"
#include "indices.cuh"

namespace illume_fast::cuda {

// Element i of [tokens, heads, size]. Nothing can be raised from here: a token out of range is left out, and its attention
// will say so.
template <typename T, typename C>
__device__ void append_element(const Heads& k, const Heads& v, const PagedCache& cache, const Indices& rows,
                               const Indices& positions, int64_t i) {
  const int64_t d = i % cache.size, head = i / cache.size % cache.heads, token = i / cache.size / cache.heads;
  const int64_t row = number_or_same(rows, token), position = number(positions, token);
  if (row < 0 || row >= cache.table_rows || position < 0 || position >= cache.max_pages * cache.page_size) return;
  const int64_t page = cache.table[row * cache.table_stride + position / cache.page_size];
  if (page < 0 || page >= cache.num_pages) return;
  const int64_t to = ((page * cache.page_size + position % cache.page_size) * cache.heads + head) * cache.size + d;
  const T* key = static_cast<const T*>(k.data) + token * k.token_stride + head * k.head_stride + d;
  const T* value = static_cast<const T*>(v.data) + token * v.token_stride + head * v.head_stride + d;
  static_cast<C*>(cache.k)[to] = from_float<C>(to_float(*key));
  static_cast<C*>(cache.v)[to] = from_float<C>(to_float(*value));
}

}  // namespace illume_fast::cuda
