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
  double total = 0.0;
  for (int i = 0; i < kHalf; ++i) total += x[i];
  return total;
}

// kLanes doubles
struct Wide {
  vd low, high;
};

inline Wide wide(vf x) {
  vfh halves[2];
  std::memcpy(halves, &x, sizeof x);
  return {__builtin_convertvector(halves[0], vd), __builtin_convertvector(halves[1], vd)};
}

inline vf narrow(Wide x) {
  const vfh halves[2] = {__builtin_convertvector(x.low, vfh), __builtin_convertvector(x.high, vfh)};
  vf y;
  std::memcpy(&y, halves, sizeof y);
  return y;
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
