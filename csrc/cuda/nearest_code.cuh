// The search for the nearest code in three steps. Queries are rounded to bfloat16; tensor cores score every rounded code
// and keep the best of each block; bounds on the rounding tell which blocks may hold the answer, nearly always few, and
// their codes are looked at in double. So the answer is that of double arithmetic for any input.
#pragma once

#include <cuda_pipeline.h>

#include <cfloat>
#include <climits>
#include <cmath>

#include "common.cuh"
#include "illume_fast/nearest_code.h"
#include "mma.cuh"

namespace illume_fast::cuda {

constexpr int kSearchThreads = 256;
constexpr int kRows = 128;     // queries of a tile: four warps of 32
constexpr int kCodes = 128;    // codes of a tile: two warps of 64, a block each
constexpr int kChunk = 32;     // numbers of a vector that are in shared memory at once
constexpr int kPitch = 40;     // from row to row there, so that a warp reads every bank once
constexpr int kRefineThreads = 128;
constexpr unsigned kWarp = 0xffffffffu;

struct SearchArgs {
  Metric metric;
  DType dtype;
  const void* x;
  int64_t inner, outer_stride, inner_stride, stride;  // query i is row i % inner of part i / inner
  int64_t queries;
  GpuCodes codebook;
  // of room, `lengths` are no less than the queries' (-1: a query is not finite), `errors` no less than the length of what
  // rounding took away
  SearchRoom room;
  int64_t* ids;

  __device__ __nv_bfloat16* rounded() const { return static_cast<__nv_bfloat16*>(room.rounded); }
  __device__ const __nv_bfloat16* codes() const { return static_cast<const __nv_bfloat16*>(codebook.rounded); }
};

__device__ inline float read(const SearchArgs& a, int64_t query, int64_t d) {
  const int64_t at = query / a.inner * a.outer_stride + query % a.inner * a.inner_stride + d * a.stride;
  switch (a.dtype) {
    case DType::bf16:
      return to_float(static_cast<const __nv_bfloat16*>(a.x)[at]);
    case DType::f16:
      return to_float(static_cast<const __half*>(a.x)[at]);
    default:
      return static_cast<const float*>(a.x)[at];
  }
}

__device__ inline double sum_of_warp(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kWarp, x, offset);
  return x;
}

// ---- first: one warp rounds one query ----

__device__ inline void round_query(const SearchArgs& a, int64_t query, int lane) {
  double squares = 0.0, lost = 0.0;
  bool good = true;
  for (int64_t d = lane; d < a.codebook.width; d += 32) {
    float x = 0.0f;
    if (d < a.codebook.size) {
      const float given = read(a, query, d);
      good = good && fabsf(given) <= FLT_MAX;
      x = given - a.codebook.center[d];
    }
    const __nv_bfloat16 rounded = from_float<__nv_bfloat16>(x);
    a.rounded()[query * a.codebook.width + d] = rounded;
    const double error = static_cast<double>(x) - to_float(rounded);
    squares += static_cast<double>(x) * x;
    lost += error * error;
  }
  good = __ballot_sync(kWarp, !good) == 0;
  squares = sum_of_warp(squares);
  lost = sum_of_warp(lost);
  if (lane != 0) return;
  // rounded up, that the bounds hold; NaN, where float32 did not hold the difference, becomes infinity
  const double length = sqrt(squares) * 1.000001;
  a.room.lengths[query] = !good ? -1.0f : length < 1e37 ? static_cast<float>(length) : INFINITY;
  a.room.errors[query] = length < 1e37 ? static_cast<float>(sqrt(lost) * 1.000001) : INFINITY;
}

// ---- second: one block scores 128 queries against a stretch of the codes ----

struct SearchShared {
  alignas(16) __nv_bfloat16 queries[2][kRows][kPitch];
  alignas(16) __nv_bfloat16 codes[2][kCodes][kPitch];
};

// Rows [first, first + 128) of a packed matrix of `rows` rows, 32 columns from `column` on; what is not there is 0.
__device__ inline void bring(__nv_bfloat16 (&to)[kRows][kPitch], const __nv_bfloat16* matrix, int64_t first, int64_t rows,
                             int64_t width, int64_t column) {
  constexpr int kVector = 8, kPerRow = kChunk / kVector;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kPerRow; i += kSearchThreads) {
    const int64_t row = first + i / kPerRow, d = column + i % kPerRow * kVector;
    const bool there = row < rows && d < width;
    const __nv_bfloat16* from = there ? matrix + row * width + d : matrix;
    __pipeline_memcpy_async(&to[i / kPerRow][i % kPerRow * kVector], from, 16, there ? 0 : 16);
  }
}

__device__ inline uint32_t pair(const __nv_bfloat16* p) { return *reinterpret_cast<const uint32_t*>(p); }

// Tiles [begin, end) of 128 codes.
__device__ inline void score_codes(const SearchArgs& a, int64_t first_query, int64_t begin, int64_t end,
                                   SearchShared& s) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = warp / 2 * 32, column = warp % 2 * kGpuBlockCodes;
  const int g = lane / 4, p = lane % 4 * 2;
  const int64_t width = a.codebook.width, chunks = (width + kChunk - 1) / kChunk;
  const int64_t padded = a.codebook.blocks * kGpuBlockCodes;
  const auto fetch = [&](int64_t step) {
    const int64_t tile = begin + step / chunks, d = step % chunks * kChunk;
    const int buffer = static_cast<int>(step % 2);
    // where one chunk is all, both buffers hold the queries after two steps
    if (chunks > 1 || step < 2) bring(s.queries[buffer], a.rounded(), first_query, a.queries, width, d);
    bring(s.codes[buffer], a.codes(), tile * kCodes, padded, width, d);
    __pipeline_commit();
  };
  const int64_t steps = (end - begin) * chunks;
  float score[2][8][4];
  if (steps > 0) fetch(0);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t tile = begin + step / chunks;
    if (step + 1 < steps) {
      fetch(step + 1);
      __pipeline_wait_prior(1);
    } else {
      __pipeline_wait_prior(0);
    }
    __syncthreads();
    if (step % chunks == 0) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int64_t code = tile * kCodes + column + n * 8 + p;
        const float one = code < padded ? a.codebook.offsets[code] : -INFINITY;
        const float other = code < padded ? a.codebook.offsets[code + 1] : -INFINITY;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          score[m][n][0] = score[m][n][2] = one;
          score[m][n][1] = score[m][n][3] = other;
        }
      }
    }
    const auto& queries = s.queries[step % 2];
    const auto& codes = s.codes[step % 2];
#pragma unroll
    for (int k = 0; k < kChunk; k += 16) {
      uint32_t x[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int top = row + m * 16 + g;
        x[m][0] = pair(&queries[top][k + p]);
        x[m][1] = pair(&queries[top + 8][k + p]);
        x[m][2] = pair(&queries[top][k + p + 8]);
        x[m][3] = pair(&queries[top + 8][k + p + 8]);
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int code = column + n * 8 + g;
        const uint32_t c[2] = {pair(&codes[code][k + p]), pair(&codes[code][k + p + 8])};
        multiply(score[0][n], x[0], c);
        multiply(score[1][n], x[1], c);
      }
    }
    if (step % chunks == chunks - 1) {
      const int64_t block = (tile * kCodes + column) / kGpuBlockCodes;
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float most = -INFINITY;
          bool odd = false;  // a NaN must not be lost: its block is then looked at
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            const float one = score[m][n][2 * half], other = score[m][n][2 * half + 1];
            most = fmaxf(most, fmaxf(one, other));
            odd |= one != one || other != other;
          }
          most = odd ? INFINITY : most;
          most = fmaxf(most, __shfl_xor_sync(kWarp, most, 1));
          most = fmaxf(most, __shfl_xor_sync(kWarp, most, 2));
          const int64_t query = first_query + row + m * 16 + half * 8 + g;
          if (p == 0 && query < a.queries && block < a.codebook.blocks) {
            a.room.best[query * a.codebook.blocks + block] = most;
          }
        }
      }
    }
    __syncthreads();
  }
}

// ---- third: one warp looks at the blocks that may hold the answer of one query ----

// No less than the error of any score in a block: what rounding took from either factor, and a few roundings of the sum,
// which tensor cores may cut off rather than round.
__device__ inline double error_bound(const SearchArgs& a, float length, float error, int64_t block) {
  const double longest = a.codebook.longest[block], lost = a.codebook.errors[block];
  const double scale = length * longest + (a.metric == Metric::l2 ? longest * longest / 2 : 0.0);
  if (!(scale < 1e37)) return HUGE_VAL;
  const double rounding = error * longest + (static_cast<double>(length) + error) * lost;
  return 1.01 * rounding + static_cast<double>(a.codebook.size + 8) * (0x1p-22 * scale + 4.0 * FLT_MIN);
}

// How near a code is: less is nearer. Squared distance, or the product with the sign changed.
__device__ inline double farness(const SearchArgs& a, int64_t query, int64_t code) {
  const float* c = a.codebook.codes + code * a.codebook.size;
  double distance = 0.0, product = 0.0, squares = 0.0;
  for (int64_t d = 0; d < a.codebook.size; ++d) {
    const double x = read(a, query, d), y = c[d];
    distance += (x - y) * (x - y);
    product += x * y;
    squares += y * y;
  }
  if (a.metric == Metric::l2) return distance;
  if (a.metric == Metric::dot) return -product;
  return squares > 0.0 ? -product / sqrt(squares) : 0.0;
}

// Calls visit(code, farness) for the lane's share of the codes in blocks that may hold the answer.
template <typename F>
__device__ void each_candidate(const SearchArgs& a, int64_t query, int lane, double reached, F&& visit) {
  const float* best = a.room.best + query * a.codebook.blocks;
  const float length = a.room.lengths[query], error = a.room.errors[query];
  for (int64_t start = 0; start < a.codebook.blocks; start += 32) {
    const int64_t own = start + lane;
    const bool wanted =
        own < a.codebook.blocks && !(best[own] + error_bound(a, length, error, own) < reached);
    for (unsigned left = __ballot_sync(kWarp, wanted); left != 0; left &= left - 1) {
      const int64_t first = (start + __ffs(left) - 1) * kGpuBlockCodes;
      for (int64_t code = first + lane; code < first + kGpuBlockCodes; code += 32) {
        if (a.codebook.offsets[code] != -INFINITY) visit(code, farness(a, query, code));
      }
    }
  }
}

__device__ inline void refine(const SearchArgs& a, int64_t query, int lane) {
  const float length = a.room.lengths[query], error = a.room.errors[query];
  if (length < 0.0f) {
    if (lane == 0) a.ids[query] = -1;
    return;
  }
  double reached = -HUGE_VAL;
  for (int64_t block = lane; block < a.codebook.blocks; block += 32) {
    const double sure = a.room.best[query * a.codebook.blocks + block] - error_bound(a, length, error, block);
    if (sure > reached) reached = sure;
  }
  for (int offset = 16; offset > 0; offset /= 2) reached = fmax(reached, __shfl_xor_sync(kWarp, reached, offset));
  double least = HUGE_VAL;
  each_candidate(a, query, lane, reached, [&](int64_t, double far) { least = fmin(least, far); });
  for (int offset = 16; offset > 0; offset /= 2) least = fmin(least, __shfl_xor_sync(kWarp, least, offset));
  // answers that agree to within the rounding of double count as ties, and the lowest id wins
  const double rounding = static_cast<double>(a.codebook.size + 4) * 0x1p-52;
  long long id = LLONG_MAX;
  each_candidate(a, query, lane, reached, [&](int64_t code, double far) {
    double slack = rounding * least;
    if (a.metric != Metric::l2) slack = rounding * length * (a.metric == Metric::dot ? a.codebook.longest_of_all : 1.0f);
    if (far <= least + slack && code < id) id = code;
  });
  for (int offset = 16; offset > 0; offset /= 2) id = min(id, __shfl_xor_sync(kWarp, id, offset));
  if (lane == 0) a.ids[query] = id == LLONG_MAX ? -1 : static_cast<int64_t>(id);
}

}  // namespace illume_fast::cuda
