#include "illume_fast/rms_norm.h"

#include "check.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void test_floats(int64_t rows, int64_t columns, int64_t gap) {
  const int64_t stride = columns + gap;
  const int64_t strided = rows > 0 ? (rows - 1) * stride + columns : 0;
  Buffer<float> x(strided), residual(strided), weight(columns), grad(rows * columns);
  fill(x, 1, 3.0f);
  fill(residual, 2);
  fill(weight, 3);
  fill(grad, 4);
  Buffer<float> sum(rows * columns), out(rows * columns), grad_x(rows * columns), grad_weight(columns);
  rms_norm_forward(DType::f32, x.get(), stride, residual.get(), stride, weight.get(), 1e-6f, sum.get(), out.get(), rows,
                   columns);
  rms_norm_backward(DType::f32, grad.get(), grad.get(), sum.get(), weight.get(), 1e-6f, grad_x.get(), grad_weight.get(),
                    rows, columns);
  std::vector<double> expected_weight(static_cast<size_t>(columns), 0.0);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0.0, dot = 0.0;
    for (int64_t i = 0; i < columns; ++i) {
      const double value = static_cast<double>(x[r * stride + i]) + residual[r * stride + i];
      CHECK_NEAR(sum[r * columns + i], value, 1e-6);
      squares += value * value;
    }
    const double n = static_cast<double>(columns), inverse = 1.0 / std::sqrt(squares / n + 1e-6);
    for (int64_t i = 0; i < columns; ++i) {
      dot += static_cast<double>(grad[r * columns + i]) * weight[i] * sum[r * columns + i] * inverse;
    }
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t at = r * columns + i;
      const double normal = sum[at] * inverse, dy = grad[at];
      CHECK_NEAR(out[at], normal * weight[i], 1e-5);
      CHECK_NEAR(grad_x[at], inverse * (dy * weight[i] - normal * dot / n) + dy, 1e-4);
      expected_weight[static_cast<size_t>(i)] += dy * normal;
    }
  }
  for (int64_t i = 0; i < columns; ++i) CHECK_NEAR(grad_weight[i], expected_weight[static_cast<size_t>(i)], 1e-3);
}

// 16-bit buffers of an exact size: what matters is that nothing is touched outside, and that ones come out right
void test_halves(DType dtype, uint16_t one, int64_t n) {
  Buffer<uint16_t> x(2 * n), weight(n), out(2 * n), grad_x(2 * n), grad_weight(n);
  for (int64_t i = 0; i < 2 * n; ++i) x[i] = weight[i % n] = one;
  rms_norm_forward(dtype, x.get(), n, nullptr, 0, weight.get(), 0.0f, nullptr, out.get(), 2, n);
  for (int64_t i = 0; i < 2 * n; ++i) CHECK(out[i] == one);
  rms_norm_backward(dtype, x.get(), nullptr, x.get(), weight.get(), 0.0f, grad_x.get(), grad_weight.get(), 2, n);
  for (int64_t i = 0; i < 2 * n; ++i) CHECK((grad_x[i] & 0x7fffu) == 0);
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t columns : {1, 3, 4, 15, 16, 17, 64, 100, 129}) {
      for (int64_t rows : {0, 1, 3, 70}) {
        test_floats(rows, columns, 0);
        test_floats(rows, columns, 5);
      }
      test_halves(DType::f16, 0x3c00, columns);
      test_halves(DType::bf16, 0x3f80, columns);
    }
    test_floats(200, 300, 0);
    rms_norm_forward(DType::f32, nullptr, 0, nullptr, 0, nullptr, 1.0f, nullptr, nullptr, 4, 0);
  });
  return report();
}
