// Loops over contiguous elements, vector by vector, the last one in part.
#pragma once

#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

// Calls f(i, n) for i = 0, kLanes, 2 kLanes, ... with n = kLanes, and last with the n < kLanes elements left over.
template <typename F>
inline void for_each_vector(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, int64_t{kLanes});
  if (i < n) f(i, n - i);
}

template <typename T>
inline vf load_some(const T* p, int64_t n) {
  return n == kLanes ? load(p) : load_n(p, n);
}

template <typename T>
inline void store_some(T* p, vf x, int64_t n) {
  return n == kLanes ? store(p, x) : store_n(p, x, n);
}

// x as it comes back from memory after being stored as a T.
template <typename T>
inline vf rounded(vf x) {
  T stored[kLanes];
  store(stored, x);
  return load(stored);
}

template <>
inline vf rounded<float>(vf x) {
  return x;
}

template <>
inline vf rounded<bf16>(vf x) {
  const vu u = (vu)x;
  const vu nearest = (u + (0x7fffu + (u >> 16 & 1u))) & 0xffff0000u;
  return x == x ? (vf)nearest : x;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
