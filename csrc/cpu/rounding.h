// Vectors rounded to bfloat16, two numbers to a word, with a bound on what that took away.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef ILLUME_FAST_ISA_NS
#error "compile this file through CMake, which defines ILLUME_FAST_ISA_NS"
#endif

namespace illume_fast::ILLUME_FAST_ISA_NS {

inline int64_t pairs_of(int64_t size) { return (size + 1) / 2; }

// The bits of x as bfloat16, to nearest even. Subnormal numbers become 0, as products of bfloat16 would have them.
inline uint32_t rounded_bits(float x) {
  if (std::fabs(x) < FLT_MIN) return 0;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

inline float of_bits(uint32_t bits) {
  bits <<= 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds numbers `stride` apart to words `word_stride` apart. Returns no less than the length of the difference.
inline float round_pairs(const float* x, int64_t stride, int64_t size, uint32_t* words, int64_t word_stride) {
  double lost = 0.0;
  for (int64_t d = 0; d < size; d += 2) {
    const float low = x[d * stride], high = d + 1 < size ? x[(d + 1) * stride] : 0.0f;
    const uint32_t low_bits = rounded_bits(low), high_bits = rounded_bits(high);
    words[d / 2 * word_stride] = high_bits << 16 | low_bits;
    const double low_error = static_cast<double>(low) - of_bits(low_bits);
    const double high_error = static_cast<double>(high) - of_bits(high_bits);
    lost += low_error * low_error + high_error * high_error;
  }
  return static_cast<float>(std::sqrt(lost)) * 1.000001f;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
