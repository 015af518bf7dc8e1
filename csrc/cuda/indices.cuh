// `Indices` as kernels read them: their own operators are for the host.
#pragma once

#include "illume_fast/paged_cache.h"

namespace illume_fast::cuda {

__device__ inline int64_t number(const Indices& indices, int64_t i) {
  return indices.wide ? static_cast<const int64_t*>(indices.data)[i] : static_cast<const int32_t*>(indices.data)[i];
}

// i itself where there are no numbers
__device__ inline int64_t number_or_same(const Indices& indices, int64_t i) {
  return indices.data == nullptr ? i : number(indices, i);
}

}  // namespace illume_fast::cuda
