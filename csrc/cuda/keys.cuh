// Floats as int32 keys of the same order, and what the blocks that work on a row find out together: sums, extremes and the
// threshold among keys. Sums of fixed-point weights are exact, so that no order of threads changes them.
#pragma once

#include "cluster.cuh"
#include "common.cuh"

namespace illume_fast::cuda {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;  // a digit of 8 bits; four digits make a key
constexpr int32_t kKeyOfMinusInf = -0x7f800000 - 1;
constexpr int32_t kKeyOfInf = 0x7f800000;
constexpr double kWeightScale = 0x1p40;
constexpr unsigned kAll = 0xffffffffu;

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

// What `join` makes of the x of all threads of the cluster, to all; `place` has not been used before in this row.
template <typename Join>
__device__ unsigned long long group_join(unsigned long long x, int place, Shared& s, const Join& join) {
  for (int offset = 16; offset > 0; offset /= 2) x = join(x, __shfl_xor_sync(kAll, x, offset));
  if (threadIdx.x % 32 == 0) s.scratch[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; ++w) x = join(x, s.scratch[w]);
    s.exchange.values[place] = x;
  }
  Group::sync();
  x = Group::of(&s.exchange, 0)->values[place];
  for (unsigned b = 1; b < Group::size(); ++b) x = join(x, Group::of(&s.exchange, b)->values[place]);
  return x;
}

__device__ inline unsigned long long group_sum(unsigned long long x, int place, Shared& s) {
  return group_join(x, place, s, [](unsigned long long a, unsigned long long b) { return a + b; });
}

__device__ inline unsigned long long group_min(unsigned long long x, int place, Shared& s) {
  return group_join(x, place, s, [](unsigned long long a, unsigned long long b) { return min(a, b); });
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

}  // namespace illume_fast::cuda
