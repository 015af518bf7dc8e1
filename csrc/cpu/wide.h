// Vectors of double, half as many lanes as `vf`, for sums that float would spoil.
#pragma once

#include "loops.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr int kHalf = kLanes / 2;
typedef double vd __attribute__((vector_size(kHalf * 8)));
typedef float vfh __attribute__((vector_size(kHalf * 4)));

inline vd widened(const float* p) {
  vfh x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, vd);
}

inline double sum(vd x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_pd((__m512d)x);
#endif
  double total = 0.0;
  for (int i = 0; i < kHalf; ++i) total += x[i];
  return total;
}

// kLanes doubles
struct Wide {
  vd low, high;
};

inline Wide operator+(Wide a, Wide b) { return {a.low + b.low, a.high + b.high}; }
inline Wide operator-(Wide a, Wide b) { return {a.low - b.low, a.high - b.high}; }
inline Wide operator*(Wide a, Wide b) { return {a.low * b.low, a.high * b.high}; }
inline Wide operator*(double a, Wide b) { return {a * b.low, a * b.high}; }
inline double sum(Wide x) { return sum(x.low + x.high); }

#if defined(__AVX512F__)
#define ILLUME_FAST_LOW_HALF 0, 1, 2, 3, 4, 5, 6, 7
#define ILLUME_FAST_HIGH_HALF 8, 9, 10, 11, 12, 13, 14, 15
#elif defined(__AVX2__)
#define ILLUME_FAST_LOW_HALF 0, 1, 2, 3
#define ILLUME_FAST_HIGH_HALF 4, 5, 6, 7
#else
#define ILLUME_FAST_LOW_HALF 0, 1
#define ILLUME_FAST_HIGH_HALF 2, 3
#endif

inline Wide wide(vf x) {
  return {__builtin_convertvector(__builtin_shufflevector(x, x, ILLUME_FAST_LOW_HALF), vd),
          __builtin_convertvector(__builtin_shufflevector(x, x, ILLUME_FAST_HIGH_HALF), vd)};
}

inline vf narrow(Wide x) {
  return __builtin_shufflevector(__builtin_convertvector(x.low, vfh), __builtin_convertvector(x.high, vfh),
                                 ILLUME_FAST_LOW_HALF, ILLUME_FAST_HIGH_HALF);
}

// The first n elements, the other lanes 0.
template <typename T>
inline Wide load_wide(const T* p, int64_t n) {
  return wide(load_some(p, n));
}

inline Wide load_wide(const float* p, int64_t n) {
  if (n == kLanes) return {widened(p), widened(p + kHalf)};
  return wide(load_n(p, n));
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
