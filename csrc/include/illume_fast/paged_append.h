// Writing new keys and values into a paged cache.
#pragma once

#include "illume_fast/cuda.h"
#include "illume_fast/heads.h"
#include "illume_fast/isa.h"
#include "illume_fast/paged_cache.h"

namespace illume_fast {

// Writes token t of k and v, both of `dtype` and with the cache's heads and size, to position positions[t] of row
// rows[t] (row t where rows.data is null). Of two tokens with one place the later stays. Returns -1, or
// the first token whose row, position or page is out of range; nothing is written then.
ILLUME_FAST_PER_ISA(int64_t, paged_append,
                    (DType dtype, Heads k, Heads v, const PagedCache& cache, Indices rows, Indices positions,
                     int64_t tokens),
                    (dtype, k, v, cache, rows, positions, tokens))

namespace cuda {

// The same on a GPU, where a token out of range is left out and the others are written. Returns 0 or CUDA's error code, of
// the launch alone; tokens, heads and size are not 0.
int paged_append(DType dtype, Heads k, Heads v, const PagedCache& cache, Indices rows, Indices positions, int64_t tokens,
                 Stream stream);

}  // namespace cuda

}  // namespace illume_fast
