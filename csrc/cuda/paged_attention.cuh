// Attention of one query token over a stretch of its row's cache, for the query heads that share a key head.
//
// A warp takes 32 tokens of the cache at a time: lane t scores token t against all the heads, then every lane sums up its
// own dimensions of the values. So a key or value is read from memory once, and no partial dot product is ever shuffled.
#pragma once

#include "common.cuh"
#include "illume_fast/heads.h"
#include "indices.cuh"

namespace illume_fast::cuda {

constexpr int kAttentionWarps = 4;
constexpr int kAttentionThreads = 32 * kAttentionWarps;
constexpr int kTile = 32;      // tokens
constexpr int kStretch = 512;  // tokens of one block: the same whatever the batch, so that a row's bits are the same too

__device__ inline float load(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::bf16:
      return to_float(static_cast<const __nv_bfloat16*>(data)[i]);
    case DType::f16:
      return to_float(static_cast<const __half*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

__device__ inline void store(DType dtype, void* data, int64_t i, float x) {
  switch (dtype) {
    case DType::bf16:
      static_cast<__nv_bfloat16*>(data)[i] = from_float<__nv_bfloat16>(x);
      break;
    case DType::f16:
      static_cast<__half*>(data)[i] = from_float<__half>(x);
      break;
    default:
      static_cast<float*>(data)[i] = x;
  }
}

// What a warp works in. Rows of `tile` are 16 bytes longer than D, so that lanes reading a column use all banks.
template <typename C, int D, int G>
struct WarpShared {
  alignas(16) C tile[kTile][D + 16 / sizeof(C)];
  float queries[G][D];
  float weights[G][kTile];
};

// A softmax on the way: the largest score, the sum of weights relative to it, and each lane's dimensions of the values,
// lane l having l, l + 32, ...
template <int D, int G>
struct Running {
  static constexpr int kOwn = D / 32;
  float largest[G], weight[G], values[G][kOwn];

  __device__ void clear() {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      largest[g] = -INFINITY;
      weight[g] = 0.0f;
#pragma unroll
      for (int d = 0; d < kOwn; ++d) values[g][d] = 0.0f;
    }
  }
};

__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
__device__ inline float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Brings `count` tokens of a row, from `start` on, into the tile; elements from `size` to D, and tokens from `count` on,
// become 0. False if a page does not exist.
template <typename C, int D, int G>
__device__ bool fetch(const PagedCache& cache, const C* pages, int64_t row, int64_t head, int64_t start, int count,
                      WarpShared<C, D, G>& s) {
  constexpr int kVector = 16 / sizeof(C), kPerToken = D / kVector;
  using V = Vector<C, kVector>;
  const int lane = threadIdx.x % 32;
  const bool wide = cache.size == D && reinterpret_cast<uintptr_t>(pages) % 16 == 0;
  bool good = true;
  for (int i = lane; i < kTile * kPerToken; i += 32) {
    const int token = i / kPerToken, d = i % kPerToken * kVector;
    V v{};
    if (token < count) {
      const int64_t position = start + token;
      const int64_t page = cache.table[row * cache.table_stride + position / cache.page_size];
      if (page < 0 || page >= cache.num_pages) {
        good = false;
      } else {
        const C* from =
            pages + ((page * cache.page_size + position % cache.page_size) * cache.heads + head) * cache.size + d;
        if (wide) {
          v = *reinterpret_cast<const V*>(from);
        } else {
          for (int k = 0; k < kVector && d + k < cache.size; ++k) v.values[k] = from[k];
        }
      }
    }
    *reinterpret_cast<V*>(&s.tile[token][d]) = v;
  }
  return good;
}

// Tokens [begin, end) of a row's cache for G query heads, `queries` being scaled; G may be more than there are.
template <typename C, int D, int G>
__device__ bool attend(const PagedCache& cache, int64_t row, int64_t head, int64_t begin, int64_t end,
                       WarpShared<C, D, G>& s, Running<D, G>& r) {
  constexpr int kVector = 16 / sizeof(C);
  using V = Vector<C, kVector>;
  const int lane = threadIdx.x % 32;
  bool good = true;
  for (int64_t start = begin; start < end; start += kTile) {
    const int count = static_cast<int>(end - start < kTile ? end - start : kTile);
    good &= fetch(cache, static_cast<const C*>(cache.k), row, head, start, count, s);
    __syncwarp();
    float scores[G] = {};
    for (int d = 0; d < D; d += kVector) {
      const V v = *reinterpret_cast<const V*>(&s.tile[lane][d]);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        const float key = to_float(v.values[k]);
#pragma unroll
        for (int g = 0; g < G; ++g) scores[g] = fmaf(s.queries[g][d + k], key, scores[g]);
      }
    }
    __syncwarp();
    good &= fetch(cache, static_cast<const C*>(cache.v), row, head, start, count, s);
#pragma unroll
    for (int g = 0; g < G; ++g) {
      const float score = lane < count ? scores[g] : -INFINITY;
      const float largest = fmaxf(r.largest[g], warp_max(score));
      // a score may be -inf or NaN, as the reference's may
      const float weight = score == -INFINITY ? 0.0f : expf(score - largest);
      const float shrunk = r.largest[g] == -INFINITY ? 0.0f : expf(r.largest[g] - largest);
      r.weight[g] = r.weight[g] * shrunk + warp_sum(weight);
      r.largest[g] = largest;
      s.weights[g][lane] = weight;
#pragma unroll
      for (int d = 0; d < Running<D, G>::kOwn; ++d) r.values[g][d] *= shrunk;
    }
    __syncwarp();
    for (int token = 0; token < count; ++token) {
      float value[Running<D, G>::kOwn];
#pragma unroll
      for (int d = 0; d < Running<D, G>::kOwn; ++d) value[d] = to_float(s.tile[token][d * 32 + lane]);
#pragma unroll
      for (int g = 0; g < G; ++g) {
        const float weight = s.weights[g][token];
#pragma unroll
        for (int d = 0; d < Running<D, G>::kOwn; ++d) r.values[g][d] = fmaf(weight, value[d], r.values[g][d]);
      }
    }
    __syncwarp();
  }
  return good;
}

struct AttentionArgs {
  DType dtype;
  Heads q;
  PagedCache cache;
  Indices rows, lengths;
  int64_t extra;
  float scale;
  void* out;
  float* parts;  // [tokens, q.count, stretches, D + 2], for rows of more than one stretch
  int64_t stretches;
};

template <typename C, int D, int G>
struct BlockShared {
  WarpShared<C, D, G> warps[kAttentionWarps];
  float largest[kAttentionWarps][G], weight[kAttentionWarps][G], values[kAttentionWarps][G][D];
  bool good[kAttentionWarps];
};

// Block (stretch, heads, token) of the grid: a stretch of the token's row for up to G of the query heads of a key head.
// The four warps take a quarter of the stretch each. Writes the result if the row is no longer than a stretch, else a
// part. What is out of range, which nobody is told of, gives NaN.
template <typename C, int D, int G>
__device__ void attend_block(const AttentionArgs& a, int64_t stretch, int64_t heads, int64_t token,
                             BlockShared<C, D, G>& s) {
  const int64_t group = a.q.count / a.cache.heads, per_head = (group + G - 1) / G;
  const int64_t head = heads / per_head, first = head * group + heads % per_head * G;
  const int64_t left = (head + 1) * group - first;
  const int count = static_cast<int>(left < G ? left : G);
  const int64_t row = number_or_same(a.rows, token);
  const int64_t given = number(a.lengths, token);
  const bool in_range = row >= 0 && row < a.cache.table_rows && given >= 0 &&
                        given <= a.cache.max_pages * a.cache.page_size - a.extra;
  const int64_t length = in_range ? given + a.extra : 0;
  if (stretch > 0 && stretch * kStretch >= length) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  WarpShared<C, D, G>& own = s.warps[warp];
  for (int i = lane; i < G * D; i += 32) {
    const int g = i / D, d = i % D;
    const bool there = g < count && d < a.cache.size;
    const int64_t at = token * a.q.token_stride + (first + g) * a.q.head_stride + d;
    own.queries[g][d] = there ? load(a.dtype, a.q.data, at) * a.scale : 0.0f;
  }
  __syncwarp();
  constexpr int64_t kQuarter = kStretch / kAttentionWarps;
  const int64_t begin = stretch * kStretch + warp * kQuarter;
  const int64_t end = begin + kQuarter < length ? begin + kQuarter : length;
  Running<D, G> r;
  r.clear();
  const bool good = attend(a.cache, row, head, begin, end, own, r);
  for (int g = 0; g < G; ++g) {
    if (lane == 0) {
      s.largest[warp][g] = r.largest[g];
      s.weight[warp][g] = r.weight[g];
    }
    for (int d = 0; d < Running<D, G>::kOwn; ++d) s.values[warp][g][d * 32 + lane] = r.values[g][d];
  }
  s.good[warp] = true;
  __syncwarp();
  if (!good) s.good[warp] = false;
  __syncthreads();
  bool all = in_range;
  for (int w = 0; w < kAttentionWarps; ++w) all &= s.good[w];
  const bool whole = length <= kStretch;
  for (int i = threadIdx.x; i < count * D; i += kAttentionThreads) {
    const int g = i / D, d = i % D;
    float largest = -INFINITY;
    for (int w = 0; w < kAttentionWarps; ++w) largest = fmaxf(largest, s.largest[w][g]);
    float weight = 0.0f, value = 0.0f;
    for (int w = 0; w < kAttentionWarps; ++w) {
      if (s.weight[w][g] == 0.0f) continue;
      const float share = expf(s.largest[w][g] - largest);
      weight += s.weight[w][g] * share;
      value += s.values[w][g][d] * share;
    }
    if (!all) value = NAN;
    const int64_t q_head = token * a.q.count + first + g;
    if (whole) {
      if (d < a.cache.size) store(a.dtype, a.out, q_head * a.cache.size + d, all && length == 0 ? 0.0f : value / weight);
    } else {
      float* part = a.parts + (q_head * a.stretches + stretch) * (D + 2);
      part[2 + d] = value;
      if (d == 0) {
        part[0] = largest;
        part[1] = weight;
      }
    }
  }
}

// Thread d of block (query head, token): joins the parts of a row of more than one stretch.
template <int D>
__device__ void join_parts(const AttentionArgs& a, int64_t q_head, int64_t token, int d) {
  const int64_t length = number(a.lengths, token) + a.extra;
  if (length <= kStretch || length > a.stretches * kStretch || d >= a.cache.size) return;
  const float* parts = a.parts + (token * a.q.count + q_head) * a.stretches * (D + 2);
  const int64_t count = (length + kStretch - 1) / kStretch;
  float largest = -INFINITY, weight = 0.0f, value = 0.0f;
  for (int64_t i = 0; i < count; ++i) largest = fmaxf(largest, parts[i * (D + 2)]);
  for (int64_t i = 0; i < count; ++i) {
    const float* part = parts + i * (D + 2);
    const float share = part[1] == 0.0f ? 0.0f : expf(part[0] - largest);
    weight += part[1] * share;
    value += part[2 + d] * share;
  }
  store(a.dtype, a.out, (token * a.q.count + q_head) * a.cache.size + d, value / weight);
}

}  // namespace illume_fast::cuda
