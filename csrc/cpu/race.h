// The exponential race: a draw whose noise belongs to each token, so that rows with nearly the same weights and the same
// noise draw the same token nearly always. The rule is in illume_fast/ops/cfg_sample.py.
#pragma once

#include <cmath>
#include <limits>

#include "keys.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

typedef uint64_t vul __attribute__((vector_size(kHalf * 8)));
typedef double vd __attribute__((vector_size(kHalf * 8)));

// Products of words, which stand in the low halves of `a`.
inline vul times(vul a, uint32_t factor) {
  const vul f = vul{} + factor;
#if defined(__AVX512F__)
  return (vul)_mm512_mul_epu32((__m512i)a, (__m512i)f);
#elif defined(__AVX2__)
  return (vul)_mm256_mul_epu32((__m256i)a, (__m256i)f);
#else
  return a * f;
#endif
}

inline bool any(vl x) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX2__)
  return _mm256_testz_si256((__m256i)x, (__m256i)x) == 0;
#else
  int64_t all = 0;
  for (int lane = 0; lane < kHalf; ++lane) all |= x[lane];
  return all != 0;
#endif
}

// `philox` of illume_fast/philox.h for several counters that differ in their third word, the fourth being 1.
inline vul philox_each(uint64_t key, uint64_t counter, vul third) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  vul c0 = vul{} + (counter & 0xffffffffu), c1 = vul{} + (counter >> 32), c2 = third, c3 = vul{} + 1;
  for (int round = 0; round < 10; ++round) {
    const vul p0 = times(c0, 0xD2511F53u), p1 = times(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c1 = p1 & 0xffffffffu;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c3 = p0 & 0xffffffffu;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c1 << 32 | c0;
}

// The first of the tokens with the least -log(u) / weight, among weights that are at least `floor` and whose key is at
// least `least`. positions are ids, ascending; null: each token is its own. n is a multiple of kLanes.
inline int64_t race(const int32_t* keys, const int32_t* positions, const int64_t* weights, int64_t n, int32_t least,
                    int64_t floor, uint64_t seed, uint64_t step) {
  vul own{};
  for (int lane = 0; lane < kHalf; ++lane) own[lane] = static_cast<uint64_t>(lane);
  double best = std::numeric_limits<double>::infinity();
  int64_t winner = -1;
  for (int64_t i = 0; i < n; i += kHalf) {
    vl w = load_as<vl>(weights + i);
    w &= __builtin_convertvector(load_as<vk>(keys + i) >= least, vl) & (w >= floor);
    if (!any(w)) continue;
    const vul ids =
        positions == nullptr ? own + static_cast<uint64_t>(i) : __builtin_convertvector(load_as<vk>(positions + i), vul);
    const vd u = __builtin_convertvector((vl)(philox_each(seed, step, ids) >> 11) + 1, vd) * 0x1p-53;
    const vd weight = __builtin_convertvector(w, vd);
    // -log(u) is at least 1 - u: few tokens come so near to winning that their logarithm is needed
    const vl close = 1.0 - u < best * weight;
    if (!any(close)) continue;
    for (int lane = 0; lane < kHalf; ++lane) {
      if (close[lane] == 0) continue;
      const double time = -std::log(u[lane]) / weight[lane];
      if (time < best) {
        best = time;
        winner = static_cast<int64_t>(ids[lane]);
      }
    }
  }
  return winner;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
