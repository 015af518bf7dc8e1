#include "illume_fast/swiglu.h"

#include "loops.h"
#include "parallel.h"
#include "stream.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// elements a thread should have to be worth waking
constexpr int64_t kGrain = 16384;

// Splits rows x columns into parts of whole vectors and calls f(row, first column, count): one long row is shared too.
template <typename F>
void for_each_part(int64_t rows, int64_t columns, F&& f) {
  constexpr int64_t kPart = 4096;
  if (columns == 0) return;
  const int64_t parts = (columns + kPart - 1) / kPart;
  const int64_t grain = grain_of(kGrain, columns < kPart ? columns : kPart);
  parallel_for(rows * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % parts * kPart;
      f(i / parts, first, columns - first < kPart ? columns - first : kPart);
    }
    streamed();
  });
}

template <bool kStream, typename T>
void forward(const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, T* out, int64_t rows,
             int64_t columns) {
  for_each_part(rows, columns, [=](int64_t row, int64_t first, int64_t count) {
    const T* g = gate + row * gate_stride + first;
    const T* u = up + row * up_stride + first;
    T* y = out + row * columns + first;
    for_each_vector(count, [=](int64_t i, int64_t n) {
      const vf x = load_some(g + i, n);
      put<kStream>(y + i, x * sigmoid(x) * load_some(u + i, n), n);
    });
  });
}

template <bool kStream, typename T>
void backward(const T* grad, const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, T* grad_gate,
              T* grad_up, int64_t rows, int64_t columns) {
  for_each_part(rows, columns, [=](int64_t row, int64_t first, int64_t count) {
    const int64_t packed = row * columns + first;
    const T* g = gate + row * gate_stride + first;
    const T* u = up + row * up_stride + first;
    for_each_vector(count, [=](int64_t i, int64_t n) {
      const vf dy = load_some(grad + packed + i, n);
      const vf x = load_some(g + i, n);
      const vf s = sigmoid(x);
      // dy last: its product with a large number is infinite, and s may be 0
      put<kStream>(grad_gate + packed + i, dy * (load_some(u + i, n) * (s * (1.0f + x * (1.0f - s)))), n);
      put<kStream>(grad_up + packed + i, dy * (x * s), n);
    });
  });
}

}  // namespace

void swiglu_forward(DType dtype, const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, void* out,
                    int64_t rows, int64_t columns) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto run = streams(out, rows, columns * static_cast<int64_t>(sizeof(T))) ? forward<true, T> : forward<false, T>;
    run(static_cast<const T*>(gate), gate_stride, static_cast<const T*>(up), up_stride, static_cast<T*>(out), rows,
        columns);
  });
}

void swiglu_backward(DType dtype, const void* grad, const void* gate, int64_t gate_stride, const void* up,
                     int64_t up_stride, void* grad_gate, void* grad_up, int64_t rows, int64_t columns) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const int64_t bytes = columns * static_cast<int64_t>(sizeof(T));
    const bool one = streams(grad_gate, rows, bytes), past = streams(grad_up, rows, bytes) && one;
    const auto run = past ? backward<true, T> : backward<false, T>;
    run(static_cast<const T*>(grad), static_cast<const T*>(gate), gate_stride, static_cast<const T*>(up), up_stride,
        static_cast<T*>(grad_gate), static_cast<T*>(grad_up), rows, columns);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
