#include "illume_fast/peak.h"

#include <omp.h>

#include "simd.h"

// makes the compiler believe that a register's value matters
#if defined(__AVX512F__)
#define ILLUME_FAST_KEEP(x) __asm__ volatile("" : "+v"(x))
#elif defined(ILLUME_FAST_X86)
#define ILLUME_FAST_KEEP(x) __asm__ volatile("" : "+x"(x))
#elif defined(__aarch64__)
#define ILLUME_FAST_KEEP(x) __asm__ volatile("" : "+w"(x))
#else
#define ILLUME_FAST_KEEP(x) __asm__ volatile("" : "+m"(x))
#endif

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
      // unrolled, or the chains would live in memory
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) {
        x[i] = fma(x[i], a, b);
        ILLUME_FAST_KEEP(x[i]);
      }
    }
    threads += 1;
  }
  return threads * rounds * kChains * kLanes * 2;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
