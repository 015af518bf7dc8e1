// The draw of one row by a group of blocks: mixed logits become integer keys, a radix search finds each threshold, and sums
// of fixed-point weights are exact, so that no order of threads changes the answer.
#pragma once

#include "cluster.cuh"
#include "common.cuh"
#include "illume_fast/cfg_sample.h"
#include "illume_fast/philox.h"

namespace illume_fast::cuda {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;  // a digit of 8 bits; four digits make a key
constexpr int32_t kKeyOfMinusInf = -0x7f800000 - 1;
constexpr int32_t kKeyOfInf = 0x7f800000;
constexpr double kWeightScale = 0x1p40;
constexpr unsigned kAll = 0xffffffffu;

struct Args {
  const void *cond, *uncond;
  int64_t cond_stride, uncond_stride;
  int64_t* ids;
  int64_t first, size, slice;  // slice: logits of one block of the cluster
  int64_t cached;              // of which so many keys stay in shared memory
  SampleParameters parameters;
};

template <typename T>
__device__ T at(const PerRow<T>& parameter, int64_t row) {
  return parameter.rows != nullptr ? parameter.rows[row] : parameter.value;
}

__device__ inline int32_t to_key(float x) {
  const int32_t bits = __float_as_int(x + 0.0f);  // -0 becomes +0
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
__device__ inline float from_key(int32_t key) { return __int_as_float(key ^ ((key >> 31) & 0x7fffffff)); }
__device__ inline uint32_t ordered(int32_t key) { return static_cast<uint32_t>(key) ^ 0x80000000u; }
__device__ inline int32_t from_ordered(uint32_t x) { return static_cast<int32_t>(x ^ 0x80000000u); }

// What the blocks of a cluster tell each other; every exchange has its own place, so one barrier each is enough.
struct Exchange {
  unsigned long long values[4];
  int32_t top;
};

struct Shared {
  uint32_t counts[kWarps][kBins];
  unsigned long long masses[2][kBins];  // of this block; two, since others may still read the one before
  unsigned long long merged[kBins];
  unsigned long long scratch[kWarps];
  unsigned long long found;
  uint32_t digit;
  Exchange exchange;
};

// Adds a 64-bit weight in two native 32-bit steps; the sum is exact whatever the order.
__device__ inline void add(unsigned long long* where, unsigned long long weight) {
  auto* words = reinterpret_cast<uint32_t*>(where);
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t before = atomicAdd(words, low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1u : 0u);
  if (high != 0) atomicAdd(words + 1, high);
}

__device__ inline unsigned long long warp_sum(unsigned long long x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAll, x, offset);
  return x;
}

// Sum over the block, to all its threads.
__device__ inline unsigned long long block_sum(unsigned long long x, Shared& s) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) s.scratch[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < kWarps; ++w) x += s.scratch[w];
  __syncthreads();
  return x;
}

// Sum over the cluster, to all; `place` has not been used before in this row.
__device__ inline unsigned long long group_sum(unsigned long long x, int place, Shared& s) {
  x = block_sum(x, s);
  if (threadIdx.x == 0) s.exchange.values[place] = x;
  Group::sync();
  x = 0;
  for (unsigned b = 0; b < Group::size(); ++b) x += Group::of(&s.exchange, b)->values[place];
  return x;
}

// The mixed logits of one row, as keys. NaN and +inf have the key of +inf, which no good row has.
template <typename T, bool kTwo>
struct Row {
  const T *cond, *uncond;
  float guidance;

  __device__ int32_t key(int64_t i) const {
    const float c = to_float(cond[i]);
    float z = c;
    bool broken = !(c < INFINITY);
    if constexpr (kTwo) {
      const float u = to_float(uncond[i]);
      z = __fmaf_rn(guidance, c - u, u);
      if (c == -INFINITY || u == -INFINITY) z = -INFINITY;
      broken |= !(u < INFINITY);
    }
    return broken ? kKeyOfInf : to_key(z);
  }
};

template <typename T, bool kTwo>
struct Slice {
  Row<T, kTwo> row;
  const int32_t* keys;  // in shared memory, of the first `cached`
  int64_t begin, count, cached;

  __device__ int32_t key(int64_t i) const { return i < cached ? keys[i] : row.key(begin + i); }
};

// In multiples of 2^-40; see illume_fast/ops/cfg_sample.py.
__device__ inline unsigned long long weight_of(int32_t key, float best, float inverse) {
  const float w = expf((from_key(key) - best) * inverse);
  return static_cast<unsigned long long>(__double2ll_rn(static_cast<double>(w) * kWeightScale));
}

// The least key among those from `least` on such that the keys above it number (or weigh) at most `limit`; `least` itself
// if all of them do. A radix search from the highest digit down.
template <bool kWeights, typename S>
__device__ int32_t threshold(const S& slice, int32_t least, unsigned long long limit, float best, float inverse,
                             Shared& s) {
  uint32_t prefix = 0;
  unsigned long long above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    unsigned long long* mine = s.masses[shift / 8 % 2];
    if constexpr (kWeights) {
      for (int i = threadIdx.x; i < kBins; i += kThreads) mine[i] = 0;
    } else {
      for (int i = threadIdx.x; i < kWarps * kBins; i += kThreads) (&s.counts[0][0])[i] = 0;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < slice.count; i += kThreads) {
      const int32_t key = slice.key(i);
      const uint32_t x = ordered(key);
      if (key < least || (shift < 24 && x >> (shift + 8) != prefix >> (shift + 8))) continue;
      const uint32_t digit = x >> shift & (kBins - 1);
      if constexpr (kWeights) {
        add(&mine[digit], weight_of(key, best, inverse));
      } else {
        atomicAdd(&s.counts[threadIdx.x / 32][digit], 1u);
      }
    }
    __syncthreads();
    if constexpr (!kWeights) {
      for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
        uint32_t count = 0;
        for (int w = 0; w < kWarps; ++w) count += s.counts[w][bin];
        mine[bin] = count;
      }
    }
    Group::sync();
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
      unsigned long long mass = 0;
      for (unsigned b = 0; b < Group::size(); ++b) mass += Group::of(mine, b)[bin];
      s.merged[bin] = mass;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      // lane l owns bins 8l to 8l + 7; what lies above them is found by a scan from the highest lane down
      const int lane = threadIdx.x;
      unsigned long long own = 0;
      for (int k = 0; k < 8; ++k) own += s.merged[lane * 8 + k];
      unsigned long long over = own;
      for (int offset = 1; offset < 32; offset *= 2) {
        const unsigned long long other = __shfl_down_sync(kAll, over, offset);
        if (lane + offset < 32) over += other;
      }
      over = above + over - own;
      const unsigned past = __ballot_sync(kAll, over <= limit && over + own > limit);
      if (past == 0) {
        if (lane == 0) s.digit = kBins;  // everything fits
      } else if (lane == 31 - __clz(past)) {
        int bin = lane * 8 + 7;
        while (over + s.merged[bin] <= limit) over += s.merged[bin--];
        s.digit = bin;
        s.found = over;
      }
    }
    __syncthreads();
    if (s.digit == kBins) return least;
    prefix |= s.digit << shift;
    above = s.found;
  }
  return from_ordered(prefix);
}

// The id of the first token whose running mass exceeds `target`, or -1 if that is not in this block's slice, before which
// the mass `before` lies.
template <typename S>
__device__ int64_t find(const S& slice, int32_t least, unsigned long long floor, float best, float inverse,
                        unsigned long long target, unsigned long long before, Shared& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t part = (slice.count + kWarps - 1) / kWarps;
  const int64_t begin = warp * part, end = begin + part < slice.count ? begin + part : slice.count;
  const auto mass_of = [&](int64_t i) -> unsigned long long {
    const int32_t key = i < end ? slice.key(i) : kKeyOfMinusInf;
    if (i >= end || key < least) return 0;
    const unsigned long long w = weight_of(key, best, inverse);
    return w >= floor ? w : 0;
  };
  unsigned long long mass = 0;
  for (int64_t i = begin + lane; i < end; i += 32) mass += mass_of(i);
  mass = warp_sum(mass);
  if (lane == 0) s.scratch[warp] = mass;
  __syncthreads();
  for (int w = 0; w < warp; ++w) before += s.scratch[w];
  if (target < before || target >= before + mass) return -1;
  for (int64_t start = begin;; start += 32) {
    const unsigned long long own = mass_of(start + lane);
    unsigned long long running = own;
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned long long other = __shfl_up_sync(kAll, running, offset);
      if (lane >= offset) running += other;
    }
    const unsigned past = __ballot_sync(kAll, before + running > target);
    if (past != 0) return slice.begin + start + __ffs(past) - 1;
    before += __shfl_sync(kAll, running, 31);
  }
}

// The largest key of the cluster, to all.
__device__ inline int32_t group_max(int32_t key, Shared& s) {
  key = __reduce_max_sync(kAll, key);
  if (threadIdx.x % 32 == 0) s.scratch[threadIdx.x / 32] = ordered(key);
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t best = 0;
    for (int w = 0; w < kWarps; ++w) best = max(best, static_cast<uint32_t>(s.scratch[w]));
    s.exchange.top = from_ordered(best);
  }
  Group::sync();
  int32_t top = kKeyOfMinusInf;
  for (unsigned b = 0; b < Group::size(); ++b) top = max(top, Group::of(&s.exchange, b)->top);
  return top;
}

// Writes the row's id from the one thread that knows it; every thread of the cluster goes the same way.
template <typename T, bool kTwo>
__device__ void sample_row(const Args& a, int64_t index, float guidance, int32_t* keys, Shared& s) {
  const SampleParameters& p = a.parameters;
  const float temperature = at(p.temperature, index), top_p = at(p.top_p, index), min_p = at(p.min_p, index);
  const int64_t top_k = at(p.top_k, index);
  const bool valid = isfinite(guidance) && temperature >= 0.0f && temperature < INFINITY && top_k >= 0 &&
                     top_p >= 0.0f && top_p <= 1.0f && min_p >= 0.0f && min_p <= 1.0f;
  const bool leader = threadIdx.x == 0 && Group::rank() == 0;
  if (!valid) {
    if (leader) a.ids[index] = -1;
    return;
  }
  const T* cond = static_cast<const T*>(a.cond) + index * a.cond_stride;
  const T* uncond = a.uncond == nullptr ? cond : static_cast<const T*>(a.uncond) + index * a.uncond_stride;
  const Row<T, kTwo> row{!kTwo && guidance == 0.0f ? uncond : cond, uncond, guidance};
  const int64_t begin = Group::rank() * a.slice;
  const int64_t count = begin < a.size ? (a.size - begin < a.slice ? a.size - begin : a.slice) : 0;

  int32_t top = kKeyOfMinusInf;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const int32_t key = row.key(begin + i);
    if (i < a.cached) keys[i] = key;
    top = max(top, key);
  }
  top = group_max(top, s);
  if (top >= kKeyOfInf || top == kKeyOfMinusInf) {
    if (leader) a.ids[index] = -1;
    return;
  }
  const Slice<T, kTwo> slice{row, keys, begin, count, a.cached};
  if (temperature == 0.0f) {
    // the first of the largest: a sum of nothing but the least id of each block would not do, so take the minimum
    unsigned long long least = ~0ull;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      if (slice.key(i) == top) {
        least = begin + i;
        break;
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) least = min(least, __shfl_xor_sync(kAll, least, offset));
    if (threadIdx.x % 32 == 0) s.scratch[threadIdx.x / 32] = least;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kWarps; ++w) least = min(least, s.scratch[w]);
      s.exchange.values[0] = least;
    }
    Group::sync();
    if (leader) {
      for (unsigned b = 0; b < Group::size(); ++b) least = min(least, Group::of(&s.exchange, b)->values[0]);
      a.ids[index] = a.first + static_cast<int64_t>(least);
    }
    return;
  }

  const float best = from_key(top), inverse = fminf(1.0f / temperature, FLT_MAX);
  int32_t least = kKeyOfMinusInf + 1;  // masked tokens have no weight
  if (top_k > 0 && top_k < a.size) {
    least = threshold<false>(slice, least, static_cast<unsigned long long>(top_k - 1), best, inverse, s);
  }
  if (top_p < 1.0f) {
    unsigned long long mass = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      const int32_t key = slice.key(i);
      if (key >= least) mass += weight_of(key, best, inverse);
    }
    const double total = static_cast<double>(group_sum(mass, 0, s));
    const auto limit = static_cast<unsigned long long>(static_cast<double>(top_p) * total);
    least = threshold<true>(slice, least, limit, best, inverse, s);
  }
  const auto floor = static_cast<unsigned long long>(ceil(static_cast<double>(min_p) * kWeightScale));
  unsigned long long mass = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const int32_t key = slice.key(i);
    if (key < least) continue;
    const unsigned long long w = weight_of(key, best, inverse);
    if (w >= floor) mass += w;
  }
  const unsigned long long total = group_sum(mass, 1, s);
  unsigned long long before = 0;
  for (unsigned b = 0; b < Group::rank(); ++b) before += Group::of(&s.exchange, b)->values[1];
  const uint64_t random = philox(static_cast<uint64_t>(at(p.seed, index)), static_cast<uint64_t>(at(p.step, index)));
  const unsigned long long target = __umul64hi(random, total);
  const int64_t id = find(slice, least, floor, best, inverse, target, before, s);
  if (id >= 0 && threadIdx.x % 32 == 0) a.ids[index] = a.first + id;
}

}  // namespace illume_fast::cuda
