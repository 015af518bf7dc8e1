#include "illume_fast/peak.h"

#include <omp.h>

#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

namespace {

// Independent chains x = step(x), `kLanes` numbers wide, on every thread; returns how many steps were done.
template <typename F>
int64_t chains(int64_t rounds, F&& step) {
  constexpr int kChains = 12;  // enough to hide the latency of one
  int64_t threads = 0;
#pragma omp parallel reduction(+ : threads)
  {
    vf x[kChains];
    for (int i = 0; i < kChains; ++i) x[i] = broadcast(static_cast<float>(i));
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) x[i] = step(x[i]);
    }
    // never so large, which the compiler cannot know: the values matter
    for (int i = 1; i < kChains; ++i) x[0] += x[i];
    threads += sum(x[0]) < 1e30f ? 1 : 0;
  }
  return threads * rounds * kChains;
}

}  // namespace

int64_t multiply_adds(int64_t rounds) {
  const vf a = broadcast(0.999f), b = broadcast(0.001f);
  return chains(rounds, [=](vf x) { return fma(x, a, b); }) * kLanes * 2;
}

int64_t rounded_multiply_adds(int64_t rounds) {
#if defined(__AVX512BF16__)
  const __m512bh a = (__m512bh)_mm512_set1_epi32(0x3a833a83), b = (__m512bh)_mm512_set1_epi32(0x3a833a83);  // 0.001
  return chains(rounds, [=](vf x) { return (vf)_mm512_dpbf16_ps((__m512)x, a, b); }) * kLanes * 4;
#else
  return multiply_adds(rounds);
#endif
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
