#include "check.h"
#include "illume_fast/swiglu.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

double silu_slope(double x) {
  const double s = 1.0 / (1.0 + std::exp(-x));
  return s * (1.0 + x * (1.0 - s));
}

void test_floats(int64_t rows, int64_t columns, int64_t gap) {
  const int64_t stride = columns + gap;
  const int64_t strided = rows > 0 ? (rows - 1) * stride + columns : 0;
  Buffer<float> gate(strided), up(strided), grad(rows * columns);
  fill(gate, 1, 9.0f);
  fill(up, 2);
  fill(grad, 3);
  Buffer<float> out(rows * columns), grad_gate(rows * columns), grad_up(rows * columns);
  swiglu_forward(DType::f32, gate.get(), stride, up.get(), stride, out.get(), rows, columns);
  swiglu_backward(DType::f32, grad.get(), gate.get(), stride, up.get(), stride, grad_gate.get(), grad_up.get(), rows,
                  columns);
  for (int64_t i = 0; i < rows * columns; ++i) {
    const int64_t at = i / columns * stride + i % columns;
    CHECK_NEAR(out[i], silu(gate[at]) * up[at], 1e-5);
    CHECK_NEAR(grad_gate[i], grad[i] * up[at] * silu_slope(gate[at]), 1e-5);
    CHECK_NEAR(grad_up[i], grad[i] * silu(gate[at]), 1e-5);
  }
}

// 16-bit buffers of an exact size: what matters is that nothing is touched outside, and that ones come out right
void test_halves(DType dtype, uint16_t one, int64_t n) {
  Buffer<uint16_t> gate(n), up(n), out(n), grad_gate(n), grad_up(n);
  for (int64_t i = 0; i < n; ++i) gate[i] = up[i] = one;
  swiglu_forward(dtype, gate.get(), n, up.get(), n, out.get(), 1, n);
  swiglu_backward(dtype, gate.get(), gate.get(), n, up.get(), n, grad_gate.get(), grad_up.get(), 1, n);
  const uint16_t silu_of_one = dtype == DType::f16 ? 0x39d9 : 0x3f3b;
  for (int64_t i = 0; i < n; ++i) CHECK(out[i] == silu_of_one && grad_up[i] == silu_of_one);
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t columns : {1, 3, 4, 15, 16, 17, 100}) {
      for (int64_t rows : {1, 3}) {
        test_floats(rows, columns, 0);
        test_floats(rows, columns, 5);
      }
      test_halves(DType::f16, 0x3c00, columns);
      test_halves(DType::bf16, 0x3f80, columns);
    }
    test_floats(1, 70001, 0);
    test_floats(0, 5, 5);
    swiglu_forward(DType::f32, nullptr, 0, nullptr, 0, nullptr, 4, 0);
  });
  return report();
}
