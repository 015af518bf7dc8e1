// Vectors of float for the CPU kernels: one source for every instruction set, by the compiler's vector extensions.
//
// Everything is in the namespace of the instruction set it is compiled for, so that the linker can never put code for one
// CPU in the place of code for another. `vf` holds kLanes floats. `load` and `store` convert from and to f32, bf16 and f16
// (round to nearest even, NaN stays NaN); `load_n` and `store_n` touch only the first n elements, the other lanes are 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

#if defined(ILLUME_FAST_X86)
#include <immintrin.h>
#endif

#ifndef ILLUME_FAST_ISA_NS
#error "compile this file through CMake, which defines ILLUME_FAST_ISA_NS"
#endif

namespace illume_fast::ILLUME_FAST_ISA_NS {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vu __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));

inline vf broadcast(float x) { return x - vf{}; }
inline vi broadcast_int(int32_t x) { return x - vi{}; }

// mask lanes are all ones or all zeros, as comparisons of vectors give them
inline vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }
inline vf min(vf a, vf b) { return a < b ? a : b; }
inline vf max(vf a, vf b) { return a > b ? a : b; }
inline vf abs(vf a) { return (vf)((vu)a & 0x7fffffffu); }

inline vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

inline vf sqrt(vf a) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)a);
#else
  vf r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(a[i]);
  return r;
#endif
}

// ---- loads ----

inline vf load(const float* p) {
  vf x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

inline vf load(const bf16* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}

inline vf load(const f16* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
#if defined(__AVX512F__)
  return (vf)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps((__m128i)h);
#else
  const vu u = __builtin_convertvector(h, vu);
  const vu magnitude = (u & 0x7fffu) << 13;
  // the multiplication moves the exponent's bias from 15 to 127, subnormals included
  const vu finite = (vu)((vf)magnitude * 0x1p112f);
  const vu special = magnitude | 0x7f800000u;
  return (vf)(((u & 0x7c00u) == 0x7c00u ? special : finite) | (u & 0x8000u) << 16);
#endif
}

// ---- stores ----

inline vh to_bf16_bits(vf x) {
#if defined(__AVX512BF16__)
  // the instruction would make subnormal numbers zero
  if (__builtin_expect(_mm512_fpclass_ps_mask((__m512)x, 0x20) == 0, 1)) return (vh)_mm512_cvtneps_pbh((__m512)x);
#endif
  const vu u = (vu)x;
  const vu rounded = (u + (0x7fffu + (u >> 16 & 1u))) >> 16;
  const vu bits = x == x ? rounded : vu{} + 0x7fc0u;
  return __builtin_convertvector(bits, vh);
}

inline vh to_f16_bits(vf x) {
#if defined(__AVX512F__)
  return (vh)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
  return (vh)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vu sign = (vu)x >> 16 & 0x8000u;
  const vu u = (vu)x & 0x7fffffffu;
  const vu normal = (u + 0xc8000fffu + (u >> 13 & 1u)) >> 13;
  // below 2^-14 adding 0.5 leaves the rounded subnormal in the low bits
  const vu subnormal = (vu)((vf)u + 0.5f) - 0x3f000000u;
  vu bits = u < 0x38800000u ? subnormal : normal;
  bits = u >= 0x477ff000u ? vu{} + 0x7c00u : bits;
  bits = u > 0x7f800000u ? vu{} + 0x7e00u : bits;
  return __builtin_convertvector(bits | sign, vh);
#endif
}

inline void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }

inline void store(bf16* p, vf x) {
  const vh h = to_bf16_bits(x);
  std::memcpy(p, &h, sizeof h);
}

inline void store(f16* p, vf x) {
  const vh h = to_f16_bits(x);
  std::memcpy(p, &h, sizeof h);
}

// ---- the first n of kLanes elements, 0 <= n <= kLanes ----

template <typename T>
inline vf load_n(const T* p, int64_t n) {
  T padded[kLanes] = {};
  std::memcpy(padded, p, static_cast<size_t>(n) * sizeof(T));
  return load(padded);
}

template <typename T>
inline void store_n(T* p, vf x, int64_t n) {
  T padded[kLanes];
  store(padded, x);
  std::memcpy(p, padded, static_cast<size_t>(n) * sizeof(T));
}

template <typename T>
inline float load_one(const T* p) {
  return load_n(p, 1)[0];
}

inline float load_one(const float* p) { return *p; }

template <typename T>
inline void store_one(T* p, float x) {
  store_n(p, broadcast(x), 1);
}

inline void store_one(float* p, float x) { *p = x; }

// ---- across lanes ----

inline float sum(vf x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += x[i];
  return total;
#endif
}

// NaN lanes are ignored unless lane 0 is NaN: look for NaN apart where it matters
inline float max_lane(vf x) {
  float best = x[0];
  for (int i = 1; i < kLanes; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

// Sums over lanes, as additions of interleaved halves within groups of four lanes, then of whole groups: shuffles that stay
// within such groups are the quickest.
#if defined(__AVX512F__)
#define ILLUME_FAST_LOW_1 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define ILLUME_FAST_HIGH_1 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define ILLUME_FAST_LOW_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define ILLUME_FAST_HIGH_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define ILLUME_FAST_EVEN_GROUPS 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define ILLUME_FAST_ODD_GROUPS 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#elif defined(__AVX2__)
#define ILLUME_FAST_LOW_1 0, 8, 1, 9, 4, 12, 5, 13
#define ILLUME_FAST_HIGH_1 2, 10, 3, 11, 6, 14, 7, 15
#define ILLUME_FAST_LOW_2 0, 1, 8, 9, 4, 5, 12, 13
#define ILLUME_FAST_HIGH_2 2, 3, 10, 11, 6, 7, 14, 15
#define ILLUME_FAST_EVEN_GROUPS 0, 1, 2, 3, 8, 9, 10, 11
#define ILLUME_FAST_ODD_GROUPS 4, 5, 6, 7, 12, 13, 14, 15
#else
#define ILLUME_FAST_LOW_1 0, 4, 1, 5
#define ILLUME_FAST_HIGH_1 2, 6, 3, 7
#define ILLUME_FAST_LOW_2 0, 1, 4, 5
#define ILLUME_FAST_HIGH_2 2, 3, 6, 7
#define ILLUME_FAST_EVEN_GROUPS 0, 1, 2, 3
#define ILLUME_FAST_ODD_GROUPS 4, 5, 6, 7
#endif
#define ILLUME_FAST_ADD_HALVES(x, y, low, high) \
  (__builtin_shufflevector(x, y, low) + __builtin_shufflevector(x, y, high))

// Lane i is the sum over the lanes of x[i].
inline vf sum_each(vf (&x)[kLanes]) {
  vf quads[kLanes / 4];
#pragma GCC unroll 4
  for (int i = 0; i < kLanes / 4; ++i) {
    const vf first = ILLUME_FAST_ADD_HALVES(x[4 * i], x[4 * i + 1], ILLUME_FAST_LOW_1, ILLUME_FAST_HIGH_1);
    const vf second = ILLUME_FAST_ADD_HALVES(x[4 * i + 2], x[4 * i + 3], ILLUME_FAST_LOW_1, ILLUME_FAST_HIGH_1);
    quads[i] = ILLUME_FAST_ADD_HALVES(first, second, ILLUME_FAST_LOW_2, ILLUME_FAST_HIGH_2);
  }
#pragma GCC unroll 4
  for (int count = kLanes / 4; count > 1; count /= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < count / 2; ++i) {
      quads[i] =
          ILLUME_FAST_ADD_HALVES(quads[2 * i], quads[2 * i + 1], ILLUME_FAST_EVEN_GROUPS, ILLUME_FAST_ODD_GROUPS);
    }
  }
  return quads[0];
}

// ---- exp, within 2 units in the last place; inf, 0, subnormals and NaN as in std::exp ----

// 2^n * e^r with |r| <= ln(2) / 2; n is rounded by adding 1.5 * 2^23
inline vf exp(vf x) {
#if defined(__AVX512F__)
  // where one operand is NaN, these give the second
  const vf clamped = (vf)_mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), (__m512)x));
#else
  const vf clamped = min(max(x, broadcast(-104.0f)), broadcast(89.0f));
#endif
  const vf shifted = fma(clamped, broadcast(1.44269504f), broadcast(12582912.0f));
  const vf n = shifted - 12582912.0f;
  vf r = fma(n, broadcast(-0.693145752f), clamped);
  r = fma(n, broadcast(-1.42860677e-6f), r);
  vf p = broadcast(1.0f / 5040.0f);
  p = fma(p, r, broadcast(1.0f / 720.0f));
  p = fma(p, r, broadcast(1.0f / 120.0f));
  p = fma(p, r, broadcast(1.0f / 24.0f));
  p = fma(p, r, broadcast(1.0f / 6.0f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#endif
  // in two factors, since 2^128 and 2^-149 are no normal floats
  const vi exponent = __builtin_convertvector(n, vi);
  const vi half = exponent >> 1;
  const vf y = p * (vf)((half + 127) << 23) * (vf)((exponent - half + 127) << 23);
  return x == x ? y : x;
}

inline vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }

// Calls f(T{}) with T the storage type of `dtype`.
template <typename F>
inline void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::bf16:
      return f(bf16{});
    case DType::f16:
      return f(f16{});
    default:
      return f(float{});
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
