// Lengths, products and distances of vectors, in double.
#pragma once

#include <cfloat>
#include <cmath>
#include <limits>

#include "simd.h"

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

inline double inner_product(const float* a, const float* b, int64_t n) {
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) total += widened(a + i) * widened(b + i);
  double rest = 0.0;
  for (; i < n; ++i) rest += static_cast<double>(a[i]) * b[i];
  return sum(total) + rest;
}

inline double squared_distance(const float* a, const float* b, int64_t n) {
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) {
    const vd d = widened(a + i) - widened(b + i);
    total += d * d;
  }
  double rest = 0.0;
  for (; i < n; ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    rest += d * d;
  }
  return sum(total) + rest;
}

inline bool finite(const float* p, int64_t n) {
  bool good = true;
  for (int64_t i = 0; i < n; ++i) good &= std::fabs(p[i]) <= FLT_MAX;
  return good;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
