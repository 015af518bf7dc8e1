#include "illume_fast/gelu.h"

#include "parallel.h"
#include "stream.h"
#include "wide.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// elements a thread should have to be worth waking
constexpr int64_t kGrain = 8192;
constexpr int64_t kPart = 1024;
// both forms are x or 0 beyond this
constexpr float kFar = 40.0f;

// e^-(z + rest); `rest` is what rounding to z took away: of a large z it is many roundings of the result
inline vf exp_minus(vf z, vf rest) {
  const vf e = exp(-z);
  return fma(e, -rest, e);
}

inline vf exp_minus(Wide z) {
  const vf nearest = narrow(z);
  return exp_minus(nearest, narrow(z - wide(nearest)));
}

// e^(-t^2 / 2)
inline vf density_of(vf t) {
#if defined(__FMA__)
  const vf half = 0.5f * t, z = half * t;
  return exp_minus(z, fma(half, t, -z));
#else
  return exp_minus(0.5 * wide(t) * wide(t));
#endif
}

// |x| up to kFar; NaN stays NaN
inline vf distance(vf x) {
  const vf t = abs(x);
  return select(t > kFar, broadcast(kFar), t);
}

inline vf with_sign_of(vf x, vf t) { return select(x < 0.0f, -t, t); }

struct Exact {
  vf x, t, density, cdf;

  explicit Exact(vf value) : x(value), t(distance(value)), density(density_of(t)) {
    // of a standard normal distribution the share below -t, over e^(-t^2 / 2), of least relative error for t < 14.5; all
    // terms are positive, so that little is lost
    vf p = broadcast(0.00408559998f);
    p = fma(p, t, broadcast(0.0404418033f));
    p = fma(p, t, broadcast(0.182690118f));
    p = fma(p, t, broadcast(0.437594949f));
    p = fma(p, t, broadcast(0.5f));
    vf q = broadcast(0.0102409579f);
    q = fma(q, t, broadcast(0.101379146f));
    q = fma(q, t, broadcast(0.468024901f));
    q = fma(q, t, broadcast(1.20029682f));
    q = fma(q, t, broadcast(1.67307474f));
    q = fma(q, t, broadcast(1.0f));
    const vf below = density * (p / q);
    cdf = select(x < 0.0f, below, 1.0f - below);
  }

  vf value() const { return x * cdf; }
  vf slope() const { return cdf + with_sign_of(x, t) * (density * 0.398942280f); }
};

// x * sigmoid(a x + b x^3), which is the same as the form with tanh
struct ByTanh {
  vf x, t, e, share;

  static constexpr double kA = 1.5957691216057308, kB = 0.071354816272600248;

  explicit ByTanh(vf value) : x(value), t(distance(value)) {
    const Wide wide_t = wide(t);
    const Wide a{kA - vd{}, kA - vd{}};
    e = exp_minus(wide_t * (a + kB * wide_t * wide_t));
    share = select(x < 0.0f, e, broadcast(1.0f)) / (1.0f + e);
  }

  vf value() const { return x * share; }
  vf slope() const {
    const vf inner = static_cast<float>(kA) + static_cast<float>(3.0 * kB) * t * t;
    return share + with_sign_of(x, t) * inner * (e / ((1.0f + e) * (1.0f + e)));
  }
};

// Calls f(first, count) for parts of whole vectors, several at once.
template <typename F>
void for_each_part(int64_t n, F&& f) {
  parallel_for((n + kPart - 1) / kPart, grain_of(kGrain, kPart), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kPart, last = end * kPart < n ? end * kPart : n;
    f(first, last - first);
    streamed();
  });
}

template <typename Form, bool kStream, typename T>
void forward(const T* x, T* out, int64_t n) {
  for_each_part(n, [=](int64_t first, int64_t count) {
    for_each_vector(count, [=](int64_t i, int64_t some) {
      put<kStream>(out + first + i, Form(load_some(x + first + i, some)).value(), some);
    });
  });
}

template <typename Form, bool kStream, typename T>
void backward(const T* grad, const T* x, T* grad_x, int64_t n) {
  for_each_part(n, [=](int64_t first, int64_t count) {
    for_each_vector(count, [=](int64_t i, int64_t some) {
      const vf slope = Form(load_some(x + first + i, some)).slope();
      put<kStream>(grad_x + first + i, load_some(grad + first + i, some) * slope, some);
    });
  });
}

}  // namespace

void gelu_forward(DType dtype, const void* x, void* out, int64_t n, bool tanh) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const bool past = streams(out, 1, n * static_cast<int64_t>(sizeof(T)));
    const auto run = tanh ? (past ? forward<ByTanh, true, T> : forward<ByTanh, false, T>)
                          : (past ? forward<Exact, true, T> : forward<Exact, false, T>);
    run(static_cast<const T*>(x), static_cast<T*>(out), n);
  });
}

void gelu_backward(DType dtype, const void* grad, const void* x, void* grad_x, int64_t n, bool tanh) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const bool past = streams(grad_x, 1, n * static_cast<int64_t>(sizeof(T)));
    const auto run = tanh ? (past ? backward<ByTanh, true, T> : backward<ByTanh, false, T>)
                          : (past ? backward<Exact, true, T> : backward<Exact, false, T>);
    run(static_cast<const T*>(grad), static_cast<const T*>(x), static_cast<T*>(grad_x), n);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
