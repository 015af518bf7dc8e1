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

// What a tile asks memory for: nothing, the rows of the weight after its own (which may lie on pages that the hardware does
// not look ahead to), or one row of the next block of outputs.
enum class Ahead { none, next_rows, next_block };

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

// sums[m * kBlockOutputs + n] += x[m] . weight[n] for M rows of x and N of the weight. Row `pass` of the next block is
// asked for.
template <Ahead kAhead, int M, int N, typename T>
inline void tile(const T* x, int64_t x_stride, const T* weight, int64_t weight_stride, int64_t inputs, float* sums,
                 int64_t pass) {
  using Kind = Numbers<T>;
  constexpr int kGroups = (M * N + kLanes - 1) / kLanes;
  vf acc[kGroups][kLanes] = {};
  const T* next_block = weight + (kBlockOutputs + pass) * weight_stride;
  const auto step = [&](int64_t k, int64_t count) {
    typename Kind::Vector w[N];
    if (kAhead == Ahead::next_block) __builtin_prefetch(next_block + k, 0, 2);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      w[n] = Kind::some(weight + n * weight_stride + k, count);
      if (kAhead == Ahead::next_rows) __builtin_prefetch(weight + (n + N) * weight_stride + k);
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
  float products[kGroups * kLanes];
#pragma GCC unroll 8
  for (int group = 0; group < kGroups; ++group) store(products + group * kLanes, sum_each(acc[group]));
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    float* row = sums + m * kBlockOutputs;
    if constexpr (N == 4) {
      *reinterpret_cast<Four*>(row) += *reinterpret_cast<const Four*>(products + m * N);
    } else {
      for (int n = 0; n < N; ++n) row[n] += products[m * N + n];
    }
  }
}

// The same for `rows` <= M rows of x and all `outputs` rows of the weight.
template <Ahead kAhead, int M, typename T>
void tiles(int64_t rows, const T* x, int64_t x_stride, const T* weight, int64_t weight_stride, int64_t outputs,
           int64_t inputs, float* sums, int64_t pass) {
  if constexpr (M > 0) {
    if (rows < M) {
      return tiles<kAhead, M - 1>(rows, x, x_stride, weight, weight_stride, outputs, inputs, sums, pass);
    }
    int64_t n = 0;
    for (; n + kOutputs <= outputs; n += kOutputs) {
      tile<kAhead, M, kOutputs>(x, x_stride, weight + n * weight_stride, weight_stride, inputs, sums + n, pass);
    }
    for (; n < outputs; ++n) {
      tile<kAhead, M, 1>(x, x_stride, weight + n * weight_stride, weight_stride, inputs, sums + n, pass);
    }
  }
}

// The same for all rows. The first of them bring the weight from memory and the others find it in the caches; where these
// are many, the memory would rest meanwhile, and brings the next block.
template <typename T>
void add_products(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride, int64_t outputs,
                  int64_t inputs, float* sums) {
  const bool many = rows > 3 * kRows;
  for (int64_t m = 0, pass = 0; m < rows; m += kRows, ++pass) {
    const auto run = [=](auto tiles_of) {
      tiles_of(rows - m < kRows ? rows - m : kRows, x + m * x_stride, x_stride, weight, weight_stride, outputs, inputs,
               sums + m * kBlockOutputs, pass);
    };
    if (many && pass < kOutputs) {
      run(tiles<Ahead::next_block, kRows, T>);
    } else if (pass == 0) {
      run(tiles<Ahead::next_rows, kRows, T>);
    } else {
      run(tiles<Ahead::none, kRows, T>);
    }
  }
}

// sums[m * kBlockOutputs + n] = x[m] . weight[n] for m < rows <= kBlockRows and n < outputs <= kBlockOutputs, rounded up to
// whole vectors.
template <typename T>
void products_of_block(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride,
                       int64_t outputs, int64_t inputs, float* sums) {
  for (int64_t i = 0; i < rows * kBlockOutputs; i += kLanes) store(sums + i, vf{});
  for (int64_t k = 0; k < inputs; k += kBlockInputs) {
    const int64_t count = inputs - k < kBlockInputs ? inputs - k : kBlockInputs;
    add_products(x + k, x_stride, rows, weight + k, weight_stride, outputs, count, sums);
  }
}

// Calls f(first, count) for all rows, kBlockRows at a time.
template <typename F>
void for_each_block_of_rows(int64_t rows, F&& f) {
  for (int64_t first = 0; first < rows; first += kBlockRows) {
    f(first, rows - first < kBlockRows ? rows - first : kBlockRows);
  }
}

// Calls f(m, sums) for every row m of x, where sums[n] = x[m] . weight[n] for n < outputs <= kBlockOutputs, rounded up to
// whole vectors.
template <typename T, typename F>
void for_each_row_of_products(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride,
                              int64_t outputs, int64_t inputs, F&& f) {
  float sums[kBlockRows * kBlockOutputs];
  for_each_block_of_rows(rows, [&](int64_t first, int64_t count) {
    products_of_block(x + first * x_stride, x_stride, count, weight, weight_stride, outputs, inputs, sums);
    for (int64_t m = 0; m < count; ++m) f(first + m, sums + m * kBlockOutputs);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
