#include "illume_fast/peak.h"

#include <omp.h>

#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

int64_t multiply_adds(int64_t rounds) {
  constexpr int kChains = 12;  // enough to hide the latency of one
  int64_t threads = 0;
#pragma omp parallel reduction(+ : threads)
  {
    vf x[kChains];
    for (int i = 0; i < kChains; ++i) x[i] = broadcast(static_cast<float>(i));
    const vf a = broadcast(0.999f), b = broadcast(0.001f);
    for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) x[i] = fma(x[i], a, b);
    }
    // never so large, which the compiler cannot know: the values matter
    for (int i = 1; i < kChains; ++i) x[0] += x[i];
    threads += sum(x[0]) < 1e30f ? 1 : 0;
  }
  return threads * rounds * kChains * kLanes * 2;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
