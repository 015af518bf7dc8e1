#include "illume_fast/quantize.h"

#include <cmath>

#include "by_code.h"
#include "parallel.h"
#include "stream.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;  // numbers a thread should have to be worth waking
constexpr int64_t kAhead = 8;      // rows whose codes are fetched beforehand
// of 1 + the cosine between x and its code, from where on the way from one to the other is not clear any more
constexpr double kOpposite = 1e-8;

int64_t first_out_of_range(const Quantized& q) {
  bool good = true;
  for (int64_t row = 0; row < q.rows; ++row) good &= q.ids[row] >= 0 && q.ids[row] < q.codes;
  for (int64_t row = 0; !good; ++row) {
    if (q.ids[row] < 0 || q.ids[row] >= q.codes) return row;
  }
  return -1;
}

inline double per_number(const Quantized& q) { return 1.0 / static_cast<double>(q.size > 0 ? q.size : 1); }

// Calls f(row, x, code) for all rows, on all threads.
template <typename T, typename C, typename F>
void for_each_row(const Quantized& q, F&& f) {
  const T* x = static_cast<const T*>(q.x);
  const C* codebook = static_cast<const C*>(q.codebook);
  parallel_for(q.rows, grain_of(kGrain, q.size), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      if (row + kAhead < end) {
        const C* next = codebook + q.ids[row + kAhead] * q.size;
        for (int64_t d = 0; d < q.size && d < 4 * kLanes; d += kLanes) __builtin_prefetch(next + d);
      }
      f(row, x + row * q.stride, codebook + q.ids[row] * q.size);
    }
    streamed();
  });
}

template <bool kStream, typename T, typename C>
void forward(const Quantized& q, T* values, float* error, float* error_again) {
  const float scale = static_cast<float>(per_number(q));
  for_each_row<T, C>(q, [=](int64_t row, const T* x, const C* code) {
    vf squares{};
    for_each_vector(q.size, [&](int64_t i, int64_t n) {
      const vf value = load_some(code + i, n), off = value - load_some(x + i, n);
      squares = fma(off, off, squares);
      put<kStream>(values + row * q.size + i, value, n);
    });
    error[row] = error_again[row] = sum(squares) * scale;
  });
}

// out = a grad + b x + c code
struct Combination {
  double a, b, c;
};

// lambda R^T grad, where lambda R turns and scales x into the code: R = 1 - 2 r r^T + 2 q e^T for the directions e of
// x, q of the code and r of e + q (Fifty et al., arXiv 2410.06424)
template <typename T, typename C>
Combination rotation(const T* grad, const T* x, const C* code, int64_t size) {
  Wide xx{}, cc{}, xc{}, gx{}, gc{};
  for_each_vector(size, [&](int64_t i, int64_t n) {
    const Wide g = load_wide(grad + i, n), a = load_wide(x + i, n), b = load_wide(code + i, n);
    xx = xx + a * a;
    cc = cc + b * b;
    xc = xc + a * b;
    gx = gx + g * a;
    gc = gc + g * b;
  });
  const double length = std::sqrt(sum(xx)), code_length = std::sqrt(sum(cc));
  if (length == 0.0 || code_length == 0.0) return {1.0, 0.0, 0.0};
  const double near = 1.0 + sum(xc) / (length * code_length);
  if (near <= kOpposite) return {1.0, 0.0, 0.0};
  const double lambda = code_length / length, along_code = sum(gc) / code_length;
  const double along_both = (sum(gx) / length + along_code) / near;
  return {lambda, lambda * (2.0 * along_code - along_both) / length, -lambda * along_both / code_length};
}

template <typename T, typename C>
void backward(const Quantized& q, bool rotate, const T* grad, const float* error_grad, T* grad_x) {
  const double scale = 2.0 * per_number(q);
  for_each_row<T, C>(q, [=](int64_t row, const T* x, const C* code) {
    const T* g = grad == nullptr ? x : grad + row * q.size;
    T* to = grad_x + row * q.size;
    Combination of{grad == nullptr ? 0.0 : 1.0, 0.0, 0.0};
    if (rotate && grad != nullptr) of = rotation(g, x, code, q.size);
    if (error_grad != nullptr) {
      const double pull = scale * static_cast<double>(error_grad[row]);
      of.b += pull;
      of.c -= pull;
    }
    for_each_vector(q.size, [=](int64_t i, int64_t n) {
      const Wide total = of.a * load_wide(g + i, n) + of.b * load_wide(x + i, n) + of.c * load_wide(code + i, n);
      store_some(to + i, narrow(total), n);
    });
  });
}

template <typename T, typename C>
void codebook_gradient(const Quantized& q, const float* error_grad, const ByCode& by_code, C* grad_codebook) {
  const double scale = 2.0 * per_number(q);
  const Rows<T> of_x{static_cast<const T*>(q.x), q.stride, error_grad};
  const int64_t per_code = (q.rows / (q.codes + 1) + 1) * (q.size + 1);
  // a code belongs to one thread, so its gradient is the same however many there are
  parallel_for(q.codes, grain_of(kGrain, per_code), [=](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const C* code = static_cast<const C*>(q.codebook) + k * q.size;
      C* to = grad_codebook + k * q.size;
      if (by_code.begin(k) == by_code.end(k)) {
        for (int64_t d = 0; d < q.size; ++d) to[d] = C{};
        continue;
      }
      double weight = 0.0;
      for (int64_t i = by_code.begin(k); i < by_code.end(k); ++i) {
        weight += static_cast<double>(error_grad[by_code.order[i]]);
      }
      for_each_total(of_x, by_code, k, q.size, [=](int64_t first, int64_t n, Wide total) {
        store_some(to + first, narrow(scale * (weight * load_wide(code + first, n) - total)), n);
      });
    }
  });
}

// Calls f(T{}, C{}) with the storage types of x and the codebook.
template <typename F>
void with_dtypes(const Quantized& q, F&& f) {
  with_dtype(q.dtype, [&](auto of_x) { with_dtype(q.codebook_dtype, [&](auto of_code) { f(of_x, of_code); }); });
}

}  // namespace

int64_t quantize_forward(const Quantized& q, void* values, float* error, float* error_again) {
  const int64_t bad = first_out_of_range(q);
  if (bad >= 0) return bad;
  with_dtypes(q, [&](auto of_x, auto of_code) {
    using T = decltype(of_x);
    using C = decltype(of_code);
    const bool past = streams(values, q.rows, q.size * static_cast<int64_t>(sizeof(T)));
    const auto run = past ? forward<true, T, C> : forward<false, T, C>;
    run(q, static_cast<T*>(values), error, error_again);
  });
  return -1;
}

int64_t quantize_backward(const Quantized& q, bool rotate, const void* grad, const float* error_grad, void* grad_x) {
  const int64_t bad = first_out_of_range(q);
  if (bad >= 0) return bad;
  with_dtypes(q, [&](auto of_x, auto of_code) {
    using T = decltype(of_x);
    prefer_huge_pages(grad_x, q.rows * q.size * static_cast<int64_t>(sizeof(T)));
    backward<T, decltype(of_code)>(q, rotate, static_cast<const T*>(grad), error_grad, static_cast<T*>(grad_x));
  });
  return -1;
}

int64_t quantize_codebook_gradient(const Quantized& q, const float* error_grad, int64_t* ends, int64_t* order,
                                   void* grad_codebook) {
  const int64_t bad = sort_by_code(q.ids, 0, ends, order, q.rows, q.codes);
  if (bad >= 0) return bad;
  with_dtypes(q, [&](auto of_x, auto of_code) {
    using C = decltype(of_code);
    prefer_huge_pages(grad_codebook, q.codes * q.size * static_cast<int64_t>(sizeof(C)));
    codebook_gradient<decltype(of_x)>(q, error_grad, {ends, order, q.codes}, static_cast<C*>(grad_codebook));
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
