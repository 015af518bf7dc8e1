// Attention of single tokens over a paged cache; arithmetic in f32.
#pragma once

#include "illume_fast/cuda.h"
#include "illume_fast/heads.h"
#include "illume_fast/isa.h"
#include "illume_fast/paged_cache.h"

namespace illume_fast {

// out[t] = softmax(scale * q[t] k^T) v over the first lengths[t] + extra tokens of row rows[t] of the cache (row t where
// rows.data is null); zeros where that is 0. Query head h reads the cache's head h / (q.count / cache.heads). q and out,
// packed, are of `dtype`. A token's result is the same, bit for bit, whatever the other tokens and the number of threads.
// Returns -1, or the first token whose length, row or a page is out of range; out is then unfinished.
ILLUME_FAST_PER_ISA(int64_t, paged_attention,
                    (DType dtype, Heads q, const PagedCache& cache, Indices rows, Indices lengths, int64_t extra,
                     float scale, void* out, int64_t tokens),
                    (dtype, q, cache, rows, lengths, extra, scale, out, tokens))

namespace cuda {

// The same on a GPU, where a token that is out of range gets NaN. Returns 0 or CUDA's error code, of the launch alone;
// tokens, q.count and cache.size are not 0, and cache.size is one that the kernel takes. `parts` holds
// paged_attention_parts floats.
int paged_attention(DType dtype, Heads q, const PagedCache& cache, Indices rows, Indices lengths, int64_t extra,
                    float scale, void* out, float* parts, int64_t tokens, Stream stream);
int64_t paged_attention_parts(const PagedCache& cache, int64_t query_heads, int64_t tokens);
bool paged_attention_takes(int64_t size);

}  // namespace cuda

}  // namespace illume_fast
