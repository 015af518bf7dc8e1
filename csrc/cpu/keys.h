// Floats as int32 keys of the same order, and the search for a threshold among keys without sorting them.
#pragma once

#include <cstdint>

#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr int kHalf = kLanes / 2;
typedef int32_t vk __attribute__((vector_size(kHalf * 4)));  // half as many lanes, for arithmetic in 64 bits
typedef int64_t vl __attribute__((vector_size(kHalf * 8)));

constexpr int32_t kKeyOfMinusInf = -0x7f800000 - 1;
constexpr int32_t kKeyOfInf = 0x7f800000;

// the other half of the floats' order is reversed; its own inverse. -0 must have become +0 for the two to be equal
inline vi to_key(vf x) {
  const vi bits = (vi)x;
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
inline vf from_key(vi key) { return (vf)(key ^ ((key >> 31) & 0x7fffffff)); }

inline vi load_keys(const int32_t* p) {
  vi x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

template <typename V, typename T>
inline V load_as(const T* p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline int32_t largest(vi x) {
  int32_t best = x[0];
  for (int lane = 1; lane < kLanes; ++lane) best = x[lane] > best ? x[lane] : best;
  return best;
}

inline int64_t sum(vl x) {
  int64_t total = 0;
  for (int i = 0; i < kHalf; ++i) total += x[i];
  return total;
}

// How many of n keys (n a multiple of kLanes, at most 2^31) exceed `pivot`.
inline int64_t count_above(const int32_t* keys, int64_t n, int32_t pivot) {
#if defined(__AVX512F__)
  const __m512i p = _mm512_set1_epi32(pivot);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    count += __builtin_popcount(_mm512_cmpgt_epi32_mask(_mm512_loadu_si512(keys + i), p));
  }
  return count;
#else
  vi count{};
  for (int64_t i = 0; i < n; i += kLanes) count -= load_keys(keys + i) > pivot;
  int64_t total = 0;
  for (int i = 0; i < kLanes; ++i) total += count[i];
  return total;
#endif
}

// The weights of the keys that exceed `pivot`, summed.
inline int64_t mass_above(const int32_t* keys, const int64_t* weights, int64_t n, int32_t pivot) {
  vl mass{};
  for (int64_t i = 0; i < n; i += kHalf) {
    mass += __builtin_convertvector(load_as<vk>(keys + i) > pivot, vl) & load_as<vl>(weights + i);
  }
  return sum(mass);
}

// Writes the keys that are at least `low` and their positions, of which the first is `position`. There must be room for
// kLanes of each. Returns their number.
inline int64_t append_from(vi key, int32_t low, int32_t position, int32_t* out_keys, int32_t* out_positions) {
#if defined(__AVX512F__)
  const __m512i k = (__m512i)key;
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __mmask16 keep = _mm512_cmpge_epi32_mask(k, _mm512_set1_epi32(low));
  // to a register first: compressing to memory is many times slower on some processors
  _mm512_storeu_si512(out_keys, _mm512_maskz_compress_epi32(keep, k));
  _mm512_storeu_si512(out_positions,
                      _mm512_maskz_compress_epi32(keep, _mm512_add_epi32(steps, _mm512_set1_epi32(position))));
  return __builtin_popcount(keep);
#else
  int64_t count = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    out_keys[count] = key[lane];
    out_positions[count] = position + lane;
    count += key[lane] >= low;
  }
  return count;
#endif
}

// Copies the keys in [low, high], with their weights if asked for, in order, and pads with keys of -inf of weight 0 to a
// multiple of kLanes. May work in place; else out needs room for kLanes more. Returns the count, unpadded.
template <bool kWeights>
inline int64_t compact(const int32_t* keys, const int64_t* weights, int64_t n, int32_t low, int32_t high,
                       int32_t* out_keys, int64_t* out_weights) {
  int64_t count = 0;
#if defined(__AVX512F__)
  const __m512i lowest = _mm512_set1_epi32(low), highest = _mm512_set1_epi32(high);
  for (int64_t i = 0; i < n; i += kLanes) {
    const __m512i k = _mm512_loadu_si512(keys + i);
    const __mmask16 keep = _mm512_mask_cmple_epi32_mask(_mm512_cmpge_epi32_mask(k, lowest), k, highest);
    if constexpr (kWeights) {
      // both halves are read before either is written
      const __m512i w0 = _mm512_loadu_si512(weights + i), w1 = _mm512_loadu_si512(weights + i + kHalf);
      const __mmask8 k0 = static_cast<__mmask8>(keep), k1 = static_cast<__mmask8>(keep >> kHalf);
      _mm512_storeu_si512(out_weights + count, _mm512_maskz_compress_epi64(k0, w0));
      _mm512_storeu_si512(out_weights + count + __builtin_popcount(k0), _mm512_maskz_compress_epi64(k1, w1));
    }
    _mm512_storeu_si512(out_keys + count, _mm512_maskz_compress_epi32(keep, k));
    count += __builtin_popcount(keep);
  }
#else
  for (int64_t i = 0; i < n; ++i) {
    const int32_t k = keys[i];
    out_keys[count] = k;
    if constexpr (kWeights) out_weights[count] = weights[i];
    count += k >= low && k <= high;
  }
#endif
  for (int64_t i = count; i % kLanes != 0; ++i) {
    out_keys[i] = kKeyOfMinusInf;
    if constexpr (kWeights) out_weights[i] = 0;
  }
  return count;
}

inline int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// The least x in [low, high] such that the keys above x number (or weigh) at most `limit`; high if there is none below.
// Bisects, and drops the keys that are decided. n is a multiple of kLanes; scratch holds n + kLanes of each.
template <bool kWeights>
inline int32_t least_threshold(const int32_t* keys, const int64_t* weights, int64_t n, int64_t limit, int32_t low,
                               int32_t high, int32_t* scratch_keys, int64_t* scratch_weights) {
  const auto above = [&](int32_t pivot) {
    if constexpr (kWeights) return mass_above(keys, weights, n, pivot);
    return count_above(keys, n, pivot);
  };
  if (above(low) <= limit) return low;
  int64_t decided = 0;  // measure of the dropped keys, all of them above `high`
  while (int64_t{high} - low > 1) {
    const int32_t middle = static_cast<int32_t>((int64_t{low} + high) >> 1);
    const int64_t measure = decided + above(middle);
    const bool enough = measure <= limit;
    (enough ? high : low) = middle;
    if (n <= 4 * kLanes) continue;
    // with weights the count is not known, but dropping is worth its while all the same
    const int64_t larger = kWeights ? n / 2 : measure - decided;
    if ((enough ? larger : n - larger) < n / 4) continue;
    if (enough) decided = measure;
    n = padded(compact<kWeights>(keys, weights, n, enough ? kKeyOfMinusInf : low + 1, enough ? high : kKeyOfInf,
                                 scratch_keys, scratch_weights));
    keys = scratch_keys;
    weights = scratch_weights;
  }
  return high;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
