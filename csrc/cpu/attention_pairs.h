// Attention of bfloat16 queries over bfloat16 keys and values, two numbers to an instruction: products of pairs, summed in
// f32. Weights are rounded to bfloat16 before they meet the values, and it is the rounded ones that are normalised.
//
// Sums of values are kept in the order in which unpacking leaves them, see `in_order`.
#pragma once

#include "attention_chunk.h"

#if defined(__AVX512BF16__)

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr int64_t kPairLanes = 2 * kLanes;
// rows ahead of their use at which keys and values are asked from memory
constexpr int64_t kPairsAhead = 16;

inline __m512i load_pairs(const bf16* p, int64_t n) {
  if (n >= kPairLanes) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1), p);
}

inline vf multiply_pairs(__m512i a, __m512i b, vf sum) {
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// scores[g * kChunk + j] = scale * queries[g] . keys[j] for Q <= 8 queries `width` apart, zero from `size` on. `ahead`
// numbers of keys and values are asked from memory.
template <int Q>
void dot_pairs(const bf16* queries, int64_t width, const bf16* const* keys, const bf16* const* values, int64_t count,
               int64_t size, int64_t ahead, float scale, float* scores) {
  constexpr int kKeys = Q > 4 ? 2 : Q > 2 ? 4 : Q > 1 ? 8 : 16;
  for (int64_t j = 0; j < count; j += kKeys) {
    const bf16* rows[kKeys];
    for (int i = 0; i < kKeys; ++i) {
      rows[i] = keys[j + i < count ? j + i : count - 1];
      if (j + i + kPairsAhead < count) {
        prefetch(keys[j + i + kPairsAhead], ahead);
        prefetch(values[j + i + kPairsAhead], ahead);
      }
    }
    vf products[kLanes] = {};
    for (int64_t d = 0; d < size; d += kPairLanes) {
      __m512i key[kKeys];
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) key[i] = load_pairs(rows[i] + d, size - d);
#pragma GCC unroll 8
      for (int g = 0; g < Q; ++g) {
        const __m512i query = _mm512_loadu_si512(queries + g * width + d);
#pragma GCC unroll 16
        for (int i = 0; i < kKeys; ++i) products[g * kKeys + i] = multiply_pairs(query, key[i], products[g * kKeys + i]);
      }
    }
    float sums[kLanes];
    store(sums, sum_each(products) * scale);
    for (int g = 0; g < Q; ++g) std::memcpy(scores + g * kChunk + j, sums + g * kKeys, kKeys * sizeof(float));
  }
}

// Rounds `count` weights to bfloat16 where they lie, two to a word and zeros after them, and sums the rounded ones.
inline void round_weights(float* weights, int64_t count, float& total) {
  auto* const words = reinterpret_cast<bf16*>(weights);
  vf sums{};
  for (int64_t j = 0; j < kChunk; j += kLanes) {
    vf w = load(weights + j);
    for (int64_t i = count - j < 0 ? 0 : count - j; i < kLanes; ++i) w[i] = 0.0f;
    w = rounded<bf16>(w);
    sums += w;
    store(words + j, w);
  }
  total = sum(sums);
}

// sums[g] += weights[g][j] * values[j] for j in [first, last), first even, and elements [d, d + 32 V), of Q queries.
template <int Q, int V>
inline void mix_pair_vectors(const float* weights, const bf16* const* values, int64_t first, int64_t last, int64_t d,
                             int64_t size, float* sums, int64_t width) {
  vf acc[Q][2 * V];
#pragma GCC unroll 8
  for (int g = 0; g < Q; ++g) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * V; ++i) acc[g][i] = load(sums + g * width + d + i * kLanes);
  }
  for (int64_t j = first; j < last; j += 2) {
    __m512i low[V], high[V];
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) {
      const int64_t at = d + i * kPairLanes;
      const __m512i a = load_pairs(values[j] + at, size - at);
      const __m512i b = j + 1 < last ? load_pairs(values[j + 1] + at, size - at) : _mm512_setzero_si512();
      low[i] = _mm512_unpacklo_epi16(a, b);
      high[i] = _mm512_unpackhi_epi16(a, b);
    }
#pragma GCC unroll 8
    for (int g = 0; g < Q; ++g) {
      int32_t pair;
      std::memcpy(&pair, reinterpret_cast<const bf16*>(weights + g * kChunk) + j, sizeof pair);
      const __m512i weight = _mm512_set1_epi32(j + 1 < last ? pair : pair & 0xffff);
#pragma GCC unroll 8
      for (int i = 0; i < V; ++i) {
        acc[g][2 * i] = multiply_pairs(weight, low[i], acc[g][2 * i]);
        acc[g][2 * i + 1] = multiply_pairs(weight, high[i], acc[g][2 * i + 1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < Q; ++g) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * V; ++i) store(sums + g * width + d + i * kLanes, acc[g][i]);
  }
}

template <int Q>
void mix_pairs(const float* weights, const bf16* const* values, int64_t first, int64_t last, int64_t size, float* sums,
               int64_t width) {
  // as many vectors at once as registers hold, so that their sums overlap
  constexpr int kVectors = Q > 4 ? 1 : Q > 2 ? 2 : 4;
  int64_t d = 0;
  for (; d + kVectors * kPairLanes <= width; d += kVectors * kPairLanes) {
    mix_pair_vectors<Q, kVectors>(weights, values, first, last, d, size, sums, width);
  }
  for (; d < width; d += kPairLanes) mix_pair_vectors<Q, 1>(weights, values, first, last, d, size, sums, width);
}

// Brings sums of values, `width` of them, into the order of their elements.
inline void in_order(float* sums, int64_t width) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  for (int64_t d = 0; d < width; d += kPairLanes) {
    const __m512 low = (__m512)load(sums + d), high = (__m512)load(sums + d + kLanes);
    store(sums + d, (vf)_mm512_permutex2var_ps(low, first, high));
    store(sums + d + kLanes, (vf)_mm512_permutex2var_ps(low, second, high));
  }
}

// Calls f(first, Q) with Q an integral constant of at most 8 for all `queries`.
template <int Q = 8, typename F>
inline void for_each_wide_tile(int64_t queries, F&& f, int64_t first = 0) {
  if constexpr (Q > 0) {
    for (; first + Q <= queries; first += Q) f(first, std::integral_constant<int, Q>{});
    if (first < queries) for_each_wide_tile<Q - 1>(queries, f, first);
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS

#endif
