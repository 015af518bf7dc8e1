// Scores of codes in low precision: the best of each block for several queries, in float32 or from numbers rounded to
// bfloat16, and all scores of one block.
#pragma once

#include <cstdint>
#include <limits>

#include "illume_fast/nearest_code.h"
#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kPanels = kBlockCodes / kPanelCodes;

// whether the first look at the codes is at rounded ones: twice as many products to an instruction
#if defined(__AVX512BF16__)
constexpr bool kRounded = true;
#else
constexpr bool kRounded = false;
#endif

// queries that share a load of the codes: as many as the registers hold accumulators for, two vectors each
#if defined(__AVX512F__)
constexpr int kQueries = 8;
#elif defined(__AVX2__)
constexpr int kQueries = 6;
#else
constexpr int kQueries = 4;
#endif

inline float largest(vf x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  return max_lane(x);
#endif
}

// What scores are taken from: floats, or pairs of rounded numbers in a word. `words` make a vector.
inline vf multiply(float x, const float* c, vf sum) { return fma(broadcast(x), load(c), sum); }
inline vf multiply(uint32_t x, const uint32_t* c, vf sum) {
#if defined(__AVX512BF16__)
  const __m512i codes = _mm512_loadu_si512(c), query = _mm512_set1_epi32(static_cast<int>(x));
  return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)query, (__m512bh)codes);
#else
  (void)x, (void)c;
  return sum;
#endif
}

// The best score of each block for Q queries `words` apart; those of a query go to `best`, `stride` after the last one's.
template <int Q, typename W>
void score(const W* x, int64_t words, const W* panels, const float* offsets, int64_t blocks, float* best,
           int64_t stride) {
  for (int64_t block = 0; block < blocks; ++block) {
    vf top[Q];
    for (int q = 0; q < Q; ++q) top[q] = broadcast(-kInf);
    for (int64_t panel = 0; panel < kPanels; ++panel) {
      const W* base = panels + (block * kPanels + panel) * words * kPanelCodes;
      const float* offset = offsets + block * kBlockCodes + panel * kPanelCodes;
      for (int64_t part = 0; part < kPanelCodes; part += 2 * kLanes) {
        vf low[Q], high[Q];
        for (int q = 0; q < Q; ++q) {
          low[q] = load(offset + part);
          high[q] = load(offset + part + kLanes);
        }
        const W* c = base + part;
        for (int64_t d = 0; d < words; ++d, c += kPanelCodes) {
#pragma GCC unroll 8
          for (int q = 0; q < Q; ++q) {
            low[q] = multiply(x[q * words + d], c, low[q]);
            high[q] = multiply(x[q * words + d], c + kLanes, high[q]);
          }
        }
        for (int q = 0; q < Q; ++q) top[q] = max(top[q], max(low[q], high[q]));
      }
    }
    for (int q = 0; q < Q; ++q) best[q * stride + block] = largest(top[q]);
  }
}

template <int Q, typename W>
void score_some(int64_t queries, const W* x, int64_t words, const W* panels, const float* offsets, int64_t blocks,
                float* best, int64_t stride) {
  if constexpr (Q > 0) {
    if (queries == Q) return score<Q>(x, words, panels, offsets, blocks, best, stride);
    score_some<Q - 1>(queries, x, words, panels, offsets, blocks, best, stride);
  }
}

// The float32 scores of one block's codes for one query; their largest is returned.
inline float score_block(const float* x, int64_t size, const float* panels, const float* offsets, float* scores) {
  vf top = broadcast(-kInf);
  for (int64_t panel = 0; panel < kPanels; ++panel) {
    for (int64_t part = 0; part < kPanelCodes; part += 2 * kLanes) {
      const int64_t at = panel * kPanelCodes + part;
      vf low = load(offsets + at), high = load(offsets + at + kLanes);
      const float* c = panels + panel * size * kPanelCodes + part;
      for (int64_t d = 0; d < size; ++d, c += kPanelCodes) {
        low = multiply(x[d], c, low);
        high = multiply(x[d], c + kLanes, high);
      }
      store(scores + at, low);
      store(scores + at + kLanes, high);
      top = max(top, max(low, high));
    }
  }
  return largest(top);
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
