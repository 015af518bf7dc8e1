// The draw of one row by a group of blocks: mixed logits become integer keys, a radix search finds each threshold, and the
// draw looks for a place in the mass that is left, or lets the tokens race.
#pragma once

#include "illume_fast/cfg_sample.h"
#include "illume_fast/philox.h"
#include "keys.cuh"

namespace illume_fast::cuda {

struct Args {
  const void *cond, *uncond;
  int64_t cond_stride, uncond_stride;
  int64_t* ids;
  int64_t first, size, slice;  // slice: logits of one block of the cluster
  int64_t cached;              // of which so many keys stay in shared memory
  SampleParameters parameters;
  int64_t* weights = nullptr;  // in the place of ids, packed
};

template <typename T>
__device__ T at(const PerRow<T>& parameter, int64_t row) {
  return parameter.rows != nullptr ? parameter.rows[row] : parameter.value;
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
  int begin, count, cached;  // at most 2^21

  __device__ int32_t key(int i) const { return i < cached ? keys[i] : row.key(begin + i); }
};

// What the filters have left of a row: keys from `least` on whose weight is at least `floor`, and what makes that of a key.
struct Kept {
  int32_t least;
  unsigned long long floor;
  float best, inverse;

  // 0 where a token cannot be drawn
  __device__ unsigned long long weight(int32_t key) const {
    if (key < least) return 0;
    const unsigned long long w = weight_of(key, best, inverse);
    return w >= floor ? w : 0;
  }
};

enum class Outcome { none, best, several };

// The id of the first token whose running mass exceeds `target`, or -1 if that is not in this block's slice, before which
// the mass `before` lies.
template <typename S>
__device__ int64_t find(const S& slice, const Kept& kept, unsigned long long target, unsigned long long before,
                        Shared& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t part = (slice.count + kWarps - 1) / kWarps;
  const int64_t begin = warp * part, end = begin + part < slice.count ? begin + part : slice.count;
  const auto mass_of = [&](int64_t i) -> unsigned long long { return i < end ? kept.weight(slice.key(i)) : 0; };
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

// The id with the least time among those that the threads of the cluster bring, the lowest of equals, to all of them.
__device__ inline int64_t first_home(double time, unsigned long long id, Shared& s) {
  // times are not below 0, so their bits have their order; -log(1) is -0
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(fabs(time)));
  const unsigned long long first = group_min(bits, 1, s);
  return static_cast<int64_t>(group_min(bits == first ? id : ~0ull, 2, s));
}

// The id of the token with the least -log(u) / weight, the lowest of equals, to all threads of the cluster.
template <typename S>
__device__ int64_t race(const S& slice, const Kept& kept, uint64_t seed, uint64_t step, Shared& s) {
  double earliest = INFINITY;
  unsigned long long winner = ~0ull;
  for (int i = threadIdx.x; i < slice.count; i += kThreads) {
    const int32_t key = slice.key(i);
    if (key < kept.least) continue;
    const unsigned long long w = weight_of(key, kept.best, kept.inverse);
    if (w < kept.floor) continue;
    const uint64_t id = static_cast<uint64_t>(slice.begin + i);
    const double u = static_cast<double>((philox(seed, step, static_cast<uint32_t>(id), 1) >> 11) + 1) * 0x1p-53;
    const double weight = static_cast<double>(w);
    // -log(u) is at least 1 - u, so that few logarithms are needed; neither test lets a weight of 0 pass
    if (!(1.0 - u < earliest * weight)) continue;
    const double time = -log(u) / weight;
    if (time < earliest) {
      earliest = time;
      winner = id;
    }
  }
  return first_home(earliest, winner, s);
}

// The first token with the largest logit, by its position, to all threads of the cluster.
template <typename S>
__device__ int64_t first_best(const S& slice, int32_t top, Shared& s) {
  unsigned long long first = ~0ull;
  for (int i = threadIdx.x; i < slice.count; i += kThreads) {
    if (slice.key(i) == top) {
      first = slice.begin + i;
      break;
    }
  }
  return static_cast<int64_t>(group_min(first, 0, s));
}

// Top-k and top-p of one chain: a higher kept.least. `place` as in `group_join`.
template <typename S>
__device__ void narrow(const S& slice, Kept& kept, int64_t top_k, float top_p, int64_t size, int place, Shared& s) {
  if (top_k > 0 && top_k < size) {
    const auto limit = static_cast<unsigned long long>(top_k - 1);
    kept.least = threshold<false>(slice, kept.least, limit, kept.best, kept.inverse, s);
  }
  if (top_p < 1.0f) {
    unsigned long long mass = 0;
    for (int i = threadIdx.x; i < slice.count; i += kThreads) mass += kept.weight(slice.key(i));
    const double total = static_cast<double>(group_sum(mass, place, s));
    const auto limit = static_cast<unsigned long long>(static_cast<double>(top_p) * total);
    kept.least = threshold<true>(slice, kept.least, limit, kept.best, kept.inverse, s);
  }
}

template <bool kThen>
__device__ bool is_valid(const SampleParameters& p, int64_t row) {
  const float temperature = at(p.temperature, row), top_p = at(p.top_p, row), min_p = at(p.min_p, row);
  bool valid = temperature >= 0.0f && temperature < INFINITY && at(p.top_k, row) >= 0 && top_p >= 0.0f &&
               top_p <= 1.0f && min_p >= 0.0f && min_p <= 1.0f;
  if constexpr (kThen) {
    const float more = at(p.then_temperature, row), then_top_p = at(p.then_top_p, row);
    valid &= more > 0.0f && more < INFINITY && at(p.then_top_k, row) >= 0 && then_top_p >= 0.0f && then_top_p <= 1.0f;
  }
  return valid;
}

// Reads a row, and finds what its filters leave, those of the second chain with `kThen`. `slice` and `top`, its largest key, are set unless it is none.
template <bool kThen, typename T, bool kTwo>
__device__ Outcome filter(const Args& a, int64_t index, float guidance, int32_t* keys, Shared& s,
                          Slice<T, kTwo>& slice, int32_t& top, Kept& kept) {
  const SampleParameters& p = a.parameters;
  const float temperature = at(p.temperature, index), top_p = at(p.top_p, index);
  const int64_t top_k = at(p.top_k, index);
  if (!isfinite(guidance) || !is_valid<kThen>(p, index)) return Outcome::none;
  const T* cond = static_cast<const T*>(a.cond) + index * a.cond_stride;
  const T* uncond = a.uncond == nullptr ? cond : static_cast<const T*>(a.uncond) + index * a.uncond_stride;
  const Row<T, kTwo> row{!kTwo && guidance == 0.0f ? uncond : cond, uncond, guidance};
  const int64_t begin = Group::rank() * a.slice;
  const int64_t count = begin < a.size ? (a.size - begin < a.slice ? a.size - begin : a.slice) : 0;

  top = kKeyOfMinusInf;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const int32_t key = row.key(begin + i);
    if (i < a.cached) keys[i] = key;
    top = max(top, key);
  }
  top = group_max(top, s);
  if (top >= kKeyOfInf || top == kKeyOfMinusInf) return Outcome::none;
  slice = {row, keys, static_cast<int>(begin), static_cast<int>(count), static_cast<int>(a.cached)};
  if (temperature == 0.0f) return Outcome::best;

  // masked tokens have no weight
  kept = {kKeyOfMinusInf + 1, 0, from_key(top), fminf(1.0f / temperature, FLT_MAX)};
  narrow(slice, kept, top_k, top_p, a.size, 0, s);
  if constexpr (kThen) {
    // a chain keeps a prefix of the tokens in their order, so that this one goes on from the first one's least key
    kept.inverse = fminf(1.0f / (temperature * at(p.then_temperature, index)), FLT_MAX);
    Group::sync();  // others may still read this block's masses
    narrow(slice, kept, at(p.then_top_k, index), at(p.then_top_p, index), a.size, 3, s);
  }
  kept.floor = static_cast<unsigned long long>(ceil(static_cast<double>(at(p.min_p, index)) * kWeightScale));
  return Outcome::several;
}

// Writes the row's id from the one thread that knows it; every thread of the cluster goes the same way.
template <typename T, bool kTwo, bool kThen>
__device__ void sample_row(const Args& a, int64_t index, float guidance, int32_t* keys, Shared& s) {
  const bool leader = threadIdx.x == 0 && Group::rank() == 0;
  Slice<T, kTwo> slice;
  Kept kept;
  int32_t top;
  const Outcome outcome = filter<kThen>(a, index, guidance, keys, s, slice, top, kept);
  if (outcome == Outcome::none) {
    if (leader) a.ids[index] = -1;
    return;
  }
  if (outcome == Outcome::best) {
    const int64_t first = first_best(slice, top, s);
    if (leader) a.ids[index] = a.first + first;
    return;
  }
  const SampleParameters& p = a.parameters;
  const auto seed = static_cast<uint64_t>(at(p.seed, index)), step = static_cast<uint64_t>(at(p.step, index));
  if (p.noise == Noise::race) {
    const int64_t id = race(slice, kept, seed, step, s);
    if (leader) a.ids[index] = a.first + id;
    return;
  }
  unsigned long long mass = 0;
  for (int i = threadIdx.x; i < slice.count; i += kThreads) mass += kept.weight(slice.key(i));
  const unsigned long long total = group_sum(mass, 1, s);
  unsigned long long before = 0;
  for (unsigned b = 0; b < Group::rank(); ++b) before += Group::of(&s.exchange, b)->values[1];
  const unsigned long long target = __umul64hi(philox(seed, step), total);
  const int64_t id = find(slice, kept, target, before, s);
  if (id >= 0 && threadIdx.x % 32 == 0) a.ids[index] = a.first + id;
}

// Writes the weights of the row that `sample_row` would draw with; -1 in the whole row where it has no draw.
template <typename T, bool kTwo>
__device__ void weigh_row(const Args& a, int64_t index, float guidance, int32_t* keys, Shared& s) {
  Slice<T, kTwo> slice;
  Kept kept;
  int32_t top;
  const Outcome outcome = filter<true>(a, index, guidance, keys, s, slice, top, kept);
  const int64_t begin = Group::rank() * a.slice, end = begin + a.slice < a.size ? begin + a.slice : a.size;
  int64_t* weights = a.weights + index * a.size;
  if (outcome == Outcome::several) {
    for (int i = threadIdx.x; i < slice.count; i += kThreads) {
      weights[begin + i] = static_cast<int64_t>(kept.weight(slice.key(i)));
    }
    return;
  }
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) weights[i] = outcome == Outcome::none ? -1 : 0;
  if (outcome == Outcome::none) return;
  const int64_t first = first_best(slice, top, s);  // behind its barriers, the zeros are there
  if (first >= begin && first < end && threadIdx.x == 0) weights[first] = static_cast<int64_t>(kWeightScale);
}

}  // namespace illume_fast::cuda
