// Sums of products for a block of rows of x and a block of rows of a weight. Both are read along their length where they
// lie, a few rows of one against a few of the other, so that what is loaded is used several times while the sums stay in
// registers. What a row of x gives depends on that row alone.
#pragma once

#include "loops.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr int64_t kBlockInputs = 2048;  // sums start afresh here, so that the rows of a block stay in the caches
constexpr int64_t kBlockOutputs = 32;  // a whole number of vectors
constexpr int64_t kBlockRows = 48;

// rows of the weight and of x at once: as many as the registers hold sums for
constexpr int kOutputs = 4;
#if defined(__AVX512F__)
constexpr int kRows = 6;
#else
constexpr int kRows = 2;
#endif

// How T's numbers are loaded and multiplied, kCount at a time.
template <typename T>
struct Numbers {
  using Vector = vf;
  static constexpr int64_t kCount = kLanes;
  static Vector some(const T* p, int64_t n) { return load_some(p, n); }
  static vf multiply_add(Vector a, Vector b, vf sum) { return fma(a, b, sum); }
};

#if defined(__AVX512BF16__)
template <>
struct Numbers<bf16> {
  using Vector = __m512bh;
  static constexpr int64_t kCount = 2 * kLanes;
  static Vector some(const bf16* p, int64_t n) {
    if (n == kCount) return (__m512bh)_mm512_loadu_si512(p);
    return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1), p);
  }
  static vf multiply_add(Vector a, Vector b, vf sum) { return (vf)_mm512_dpbf16_ps((__m512)sum, a, b); }
};
#endif

// sums[m * kBlockOutputs + n] += x[m] . weight[n] for M rows of x and N of the weight. `kAhead` asks for the rows of the
// weight after these, which may lie on pages that the hardware does not look ahead to.
template <bool kAhead, int M, int N, typename T>
inline void tile(const T* x, int64_t x_stride, const T* weight, int64_t weight_stride, int64_t inputs, float* sums) {
  using Kind = Numbers<T>;
  constexpr int kGroups = (M * N + kLanes - 1) / kLanes;
  vf acc[kGroups][kLanes] = {};
  const auto step = [&](int64_t k, int64_t count) {
    typename Kind::Vector w[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      w[n] = Kind::some(weight + n * weight_stride + k, count);
      if (kAhead) __builtin_prefetch(weight + (n + N) * weight_stride + k);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const auto row = Kind::some(x + m * x_stride + k, count);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        vf& sum = acc[(m * N + n) / kLanes][(m * N + n) % kLanes];
        sum = Kind::multiply_add(row, w[n], sum);
      }
    }
  };
  int64_t k = 0;
  for (; k + Kind::kCount <= inputs; k += Kind::kCount) step(k, Kind::kCount);
  if (k < inputs) step(k, inputs - k);
#pragma GCC unroll 8
  for (int group = 0; group < kGroups; ++group) {
    float products[kLanes];
    store(products, sum_each(acc[group]));
    for (int i = 0; i < kLanes && group * kLanes + i < M * N; ++i) {
      const int at = group * kLanes + i;
      sums[at / N * kBlockOutputs + at % N] += products[i];
    }
  }
}

// The same for `rows` <= M rows of x and all `outputs` rows of the weight.
template <bool kAhead, int M, typename T>
void tiles(int64_t rows, const T* x, int64_t x_stride, const T* weight, int64_t weight_stride, int64_t outputs,
           int64_t inputs, float* sums) {
  if constexpr (M > 0) {
    if (rows < M) return tiles<kAhead, M - 1>(rows, x, x_stride, weight, weight_stride, outputs, inputs, sums);
    int64_t n = 0;
    for (; n + kOutputs <= outputs; n += kOutputs) {
      tile<kAhead, M, kOutputs>(x, x_stride, weight + n * weight_stride, weight_stride, inputs, sums + n);
    }
    for (; n < outputs; ++n) {
      tile<kAhead, M, 1>(x, x_stride, weight + n * weight_stride, weight_stride, inputs, sums + n);
    }
  }
}

// The same for all rows: the first of them bring the weight from memory, the others find it in the caches.
template <typename T>
void add_products(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride, int64_t outputs,
                  int64_t inputs, float* sums) {
  tiles<true, kRows>(rows < kRows ? rows : kRows, x, x_stride, weight, weight_stride, outputs, inputs, sums);
  for (int64_t m = kRows; m < rows; m += kRows) {
    tiles<false, kRows>(rows - m < kRows ? rows - m : kRows, x + m * x_stride, x_stride, weight, weight_stride, outputs,
                        inputs, sums + m * kBlockOutputs);
  }
}

// Calls f(m, sums) for every row m of x, where sums[n] = x[m] . weight[n] for n < outputs <= kBlockOutputs, rounded up to
// whole vectors.
template <typename T, typename F>
void for_each_row_of_products(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride,
                              int64_t outputs, int64_t inputs, F&& f) {
  for (int64_t first = 0; first < rows; first += kBlockRows) {
    const int64_t some = rows - first < kBlockRows ? rows - first : kBlockRows;
    float sums[kBlockRows * kBlockOutputs] = {};
    for (int64_t k = 0; k < inputs; k += kBlockInputs) {
      const int64_t count = inputs - k < kBlockInputs ? inputs - k : kBlockInputs;
      add_products(x + first * x_stride + k, x_stride, some, weight + k, weight_stride, outputs, count, sums);
    }
    for (int64_t m = 0; m < some; ++m) f(first + m, sums + m * kBlockOutputs);
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
