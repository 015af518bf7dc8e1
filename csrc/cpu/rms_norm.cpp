#include "illume_fast/rms_norm.h"

#include <cmath>
#include <vector>

#include "loops.h"
#include "parallel.h"
#include "stream.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// elements a thread should have to be worth waking
constexpr int64_t kGrain = 16384;
// columns of the weight's gradient that are summed together, and rows between which the sums are rounded up anew
constexpr int64_t kBand = 128;
constexpr int64_t kRun = 64;
// the longest row that is kept at hand while its sum is stored past the caches
constexpr int64_t kLongestKept = 8192;

inline int64_t row_grain(int64_t columns) { return grain_of(kGrain, columns); }

// 1 / sqrt(mean(x^2) + eps). Squares that leave the range of f32 are summed in double.
template <typename T>
float inverse_rms(const T* x, vf squares, float eps, int64_t columns) {
  double total = sum(squares);
  if (!(total < 1e37 && total > 1e-30)) {
    total = 0.0;
    for (int64_t i = 0; i < columns; ++i) {
      const double value = load_one(x + i);
      total += value * value;
    }
  }
  return static_cast<float>(1.0 / std::sqrt(total / static_cast<double>(columns) + static_cast<double>(eps)));
}

// Calls f(i, n, k) like for_each_vector, where k counts 0 to 3 in turn: the accumulator to use, so that additions overlap.
template <typename F>
inline void for_each_of_four(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    f(i, int64_t{kLanes}, 0);
    f(i + kLanes, int64_t{kLanes}, 1);
    f(i + 2 * kLanes, int64_t{kLanes}, 2);
    f(i + 3 * kLanes, int64_t{kLanes}, 3);
  }
  for (; i < n; i += kLanes) f(i, n - i < kLanes ? n - i : kLanes, 0);
}

template <bool kStream, typename T>
void normalise(const T* x, const T* weight, float inverse, T* out, int64_t columns) {
  for_each_vector(columns, [=](int64_t i, int64_t n) {
    put<kStream>(out + i, rounded<T>(load_some(x + i, n) * inverse) * load_some(weight + i, n), n);
  });
}

template <typename T>
vf squares_of(const T* x, int64_t columns) {
  vf squares[4] = {};
  for_each_of_four(columns, [&](int64_t i, int64_t n, int k) {
    const vf value = load_some(x + i, n);
    squares[k] = fma(value, value, squares[k]);
  });
  return (squares[0] + squares[1]) + (squares[2] + squares[3]);
}

template <bool kStream, typename T>
void forward(const T* x, int64_t x_stride, const T* residual, int64_t residual_stride, const T* weight, float eps,
             T* total, T* out, int64_t rows, int64_t columns) {
  parallel_for(rows, row_grain(columns), [=](int64_t begin, int64_t end) {
    [[maybe_unused]] T kept[kStream ? kLongestKept : 1];
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x + row * x_stride;
      vf squares[4] = {};
      if (residual == nullptr) {
        squares[0] = squares_of(from, columns);
      } else {
        const T* other = residual + row * residual_stride;
        T* to = total + row * columns;
        for_each_of_four(columns, [&](int64_t i, int64_t n, int k) {
          const vf value = rounded<T>(load_some(from + i, n) + load_some(other + i, n));
          put<kStream>(to + i, value, n);
          if (kStream) store(kept + i, value);
          squares[k] = fma(value, value, squares[k]);
        });
        from = kStream ? kept : to;
      }
      const vf all = (squares[0] + squares[1]) + (squares[2] + squares[3]);
      normalise<kStream>(from, weight, inverse_rms(from, all, eps, columns), out + row * columns, columns);
    }
    if (kStream) streamed();
  });
}

template <typename T>
void backward_rows(const T* grad, const T* grad_sum, const T* x, const T* weight, float eps, T* grad_x, float* inverses,
                   int64_t rows, int64_t columns) {
  parallel_for(rows, row_grain(columns), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * columns;
      const float inverse = inverse_rms(x + at, squares_of(x + at, columns), eps, columns);
      inverses[row] = inverse;
      vf dots[4] = {};
      for_each_of_four(columns, [&](int64_t i, int64_t n, int k) {
        const vf scaled = load_some(grad + at + i, n) * load_some(weight + i, n);
        dots[k] = fma(scaled, load_some(x + at + i, n) * inverse, dots[k]);
      });
      const float mean = sum((dots[0] + dots[1]) + (dots[2] + dots[3])) / static_cast<float>(columns);
      for_each_vector(columns, [=](int64_t i, int64_t n) {
        const vf scaled = load_some(grad + at + i, n) * load_some(weight + i, n);
        vf value = (scaled - load_some(x + at + i, n) * inverse * mean) * inverse;
        if (grad_sum != nullptr) value += load_some(grad_sum + at + i, n);
        store_some(grad_x + at + i, value, n);
      });
    }
  });
}

// Threads share out the columns, so that every sum over the rows has one order.
template <typename T>
void backward_weight(const T* grad, const T* x, const float* inverses, T* grad_weight, int64_t rows, int64_t columns) {
  const int64_t bands = (columns + kBand - 1) / kBand;
  parallel_for(bands, grain_of(kGrain, rows * kBand), [=](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) {
      const int64_t first = band * kBand;
      const int64_t width = columns - first < kBand ? columns - first : kBand;
      vf total[kBand / kLanes] = {};
      for (int64_t start = 0; start < rows; start += kRun) {
        vf part[kBand / kLanes] = {};
        for (int64_t row = start; row < rows && row < start + kRun; ++row) {
          const int64_t at = row * columns + first;
          for_each_vector(width, [&](int64_t i, int64_t n) {
            vf& to = part[i / kLanes];
            to = fma(load_some(grad + at + i, n), load_some(x + at + i, n) * inverses[row], to);
          });
        }
        for (int64_t i = 0; i < kBand / kLanes; ++i) total[i] += part[i];
      }
      for_each_vector(width, [&](int64_t i, int64_t n) { store_some(grad_weight + first + i, total[i / kLanes], n); });
    }
  });
}

}  // namespace

void rms_norm_forward(DType dtype, const void* x, int64_t x_stride, const void* residual, int64_t residual_stride,
                      const void* weight, float eps, void* total, void* out, int64_t rows, int64_t columns) {
  if (columns == 0) return;
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const int64_t bytes = columns * static_cast<int64_t>(sizeof(T));
    const bool one = streams(out, rows, bytes);
    const bool past = one && (total == nullptr || (streams(total, rows, bytes) && columns <= kLongestKept));
    const auto run = past ? forward<true, T> : forward<false, T>;
    run(static_cast<const T*>(x), x_stride, static_cast<const T*>(residual), residual_stride,
        static_cast<const T*>(weight), eps, static_cast<T*>(total), static_cast<T*>(out), rows, columns);
  });
}

void rms_norm_backward(DType dtype, const void* grad, const void* grad_sum, const void* x, const void* weight, float eps,
                       void* grad_x, void* grad_weight, int64_t rows, int64_t columns) {
  if (columns == 0) return;
  std::vector<float> inverses(static_cast<size_t>(rows));
  with_dtype(dtype, [=, &inverses](auto tag) {
    using T = decltype(tag);
    const T *g = static_cast<const T*>(grad), *from = static_cast<const T*>(x);
    backward_rows(g, static_cast<const T*>(grad_sum), from, static_cast<const T*>(weight), eps, static_cast<T*>(grad_x),
                  inverses.data(), rows, columns);
    backward_weight(g, from, inverses.data(), static_cast<T*>(grad_weight), rows, columns);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
