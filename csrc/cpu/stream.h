// Stores past the caches, for results that are too large to be found there by whoever reads them: a plain store would first
// read what it is about to overwrite.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr int64_t kStreamBytes = int64_t{16} << 20;
constexpr int64_t kStreamAlignment = 64;

constexpr int64_t kHugePage = int64_t{2} << 20;

// Asks for huge pages where these lie whole in [p, p + bytes): memory that is fresh is then given in few faults, which
// otherwise take longer than the work. Where they cannot be had, nothing changes.
inline void prefer_huge_pages(void* p, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = (reinterpret_cast<uintptr_t>(p) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

// Prepares rows of `row_bytes` that begin at `out` to be written, if they are large, and answers whether they are to be
// stored past the caches. Whoever does so calls `streamed()` at the end.
inline bool streams(void* out, int64_t rows, int64_t row_bytes) {
  if (rows * row_bytes < kStreamBytes) return false;
  prefer_huge_pages(out, rows * row_bytes);
#if defined(__AVX512F__)
  return row_bytes % kStreamAlignment == 0 && reinterpret_cast<uintptr_t>(out) % kStreamAlignment == 0;
#else
  return false;
#endif
}

inline void streamed() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

#if defined(__AVX512F__)
inline void stream(float* p, vf x) { _mm512_stream_ps(p, (__m512)x); }
inline void stream(bf16* p, vf x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)to_bf16_bits(x)); }
inline void stream(f16* p, vf x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)to_f16_bits(x)); }
#endif

// The first n elements; where `kStream`, n is kLanes and p a multiple of that.
template <bool kStream, typename T>
inline void put(T* p, vf x, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (kStream) return stream(p, x);
#endif
  if (n == kLanes) return store(p, x);
  store_n(p, x, n);
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
