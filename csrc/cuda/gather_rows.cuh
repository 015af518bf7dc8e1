// Copies of rows, 1 to 16 bytes at a time; see illume_fast/gather_rows.h.
#pragma once

#include "common.cuh"

namespace illume_fast::cuda {

// Part `i` of all rows' parts of sizeof(T) bytes, `parts` of them in a row.
template <typename T>
__device__ void gather_part(const char* table, int64_t stride, int64_t rows, int64_t parts, const int64_t* index, T* out,
                            int64_t i) {
  const int64_t from = index[i / parts];
  T part;
  if (from >= 0 && from < rows) {
    part = *reinterpret_cast<const T*>(table + from * stride + i % parts * static_cast<int64_t>(sizeof(T)));
  } else {
    memset(&part, from < 0 ? 0 : 0xff, sizeof(T));
  }
  out[i] = part;
}

}  // namespace illume_fast::cuda
