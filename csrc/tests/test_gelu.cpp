#include "check.h"
#include "illume_fast/gelu.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

constexpr double kRootHalf = 0.70710678118654752, kInverseRoot2Pi = 0.39894228040143268;

double share(double x, bool tanh) {
  return tanh ? 1.0 / (1.0 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))) : 0.5 * std::erfc(-x * kRootHalf);
}

double slope(double x, bool tanh) {
  const double s = share(x, tanh);
  if (tanh) return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 3.0 * 0.044715 * x * x);
  return s + x * kInverseRoot2Pi * std::exp(-0.5 * x * x);
}

void test_floats(int64_t n, bool tanh) {
  Buffer<float> x(n), grad(n), out(n), grad_x(n);
  fill(x, 1, 9.0f);
  fill(grad, 2);
  gelu_forward(DType::f32, x.get(), out.get(), n, tanh);
  gelu_backward(DType::f32, grad.get(), x.get(), grad_x.get(), n, tanh);
  for (int64_t i = 0; i < n; ++i) {
    // relative to each value: what is very negative keeps its small result
    CHECK_NEAR(out[i], x[i] * share(x[i], tanh), 1e-6 * std::fabs(x[i] * share(x[i], tanh)));
    CHECK_NEAR(grad_x[i], grad[i] * slope(x[i], tanh), 1e-6);
  }
}

// 16-bit buffers of an exact size: what matters is that nothing is touched outside, and that ones come out right
void test_halves(DType dtype, uint16_t one, int64_t n) {
  Buffer<uint16_t> x(n), out(n), grad_x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = one;
  gelu_forward(dtype, x.get(), out.get(), n, false);
  gelu_backward(dtype, x.get(), x.get(), grad_x.get(), n, false);
  const uint16_t at_one = dtype == DType::f16 ? 0x3abb : 0x3f57, slope_at_one = dtype == DType::f16 ? 0x3c55 : 0x3f8b;
  for (int64_t i = 0; i < n; ++i) CHECK(out[i] == at_one && grad_x[i] == slope_at_one);
}

void test_specials() {
  const float inf = INFINITY;
  Buffer<float> x(6), grad(6), out(6), grad_x(6);
  const float values[] = {inf, -inf, NAN, 1e20f, -1e20f, 0.0f};
  for (int i = 0; i < 6; ++i) x[i] = values[i], grad[i] = 2.0f;
  const double expected[] = {inf, NAN, NAN, 1e20f, 0.0, 0.0}, slopes[] = {2.0, 0.0, NAN, 2.0, 0.0, 1.0};
  for (bool tanh : {false, true}) {
    gelu_forward(DType::f32, x.get(), out.get(), 6, tanh);
    gelu_backward(DType::f32, grad.get(), x.get(), grad_x.get(), 6, tanh);
    for (int i = 0; i < 6; ++i) {
      CHECK_NEAR(out[i], expected[i], 0.0);
      CHECK_NEAR(grad_x[i], slopes[i], 0.0);
    }
  }
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t n : {0, 1, 3, 15, 16, 17, 1023, 1024, 1025, 70001}) {
      for (bool tanh : {false, true}) test_floats(n, tanh);
    }
    for (int64_t n : {1, 7, 16, 100}) {
      test_halves(DType::f16, 0x3c00, n);
      test_halves(DType::bf16, 0x3f80, n);
    }
    test_specials();
  });
  return report();
}
