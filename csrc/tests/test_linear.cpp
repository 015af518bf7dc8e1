#include <cstring>

#include "check.h"
#include "illume_fast/linear.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void test_floats(int64_t rows, int64_t outputs, int64_t inputs, int64_t gap, bool with_bias) {
  const int64_t stride = inputs + gap;
  const auto room = [=](int64_t n) { return n > 0 ? (n - 1) * stride + inputs : 0; };
  Buffer<float> x(room(rows)), weight(room(outputs)), bias(outputs), out(rows * outputs);
  fill(x, 1);
  fill(weight, 2);
  fill(bias, 3);
  linear(DType::f32, x.get(), stride, rows, weight.get(), stride, with_bias ? bias.get() : nullptr, out.get(), outputs,
         inputs);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < outputs; ++n) {
      double expected = with_bias ? bias[n] : 0.0;
      for (int64_t k = 0; k < inputs; ++k) expected += double{x[m * stride + k]} * weight[n * stride + k];
      CHECK_NEAR(out[m * outputs + n], expected, 1e-6 * static_cast<double>(inputs + 1));
    }
  }
}

// ones and twos in 16 bits, whose products and sums have no rounding
void test_halves(DType dtype, uint16_t one, uint16_t two, uint16_t (*to_bits)(int64_t), int64_t rows, int64_t outputs,
                 int64_t inputs) {
  Buffer<uint16_t> x(rows * inputs), weight(outputs * inputs), out(rows * outputs);
  for (int64_t i = 0; i < rows * inputs; ++i) x[i] = i / inputs % 2 == 0 ? one : two;
  for (int64_t i = 0; i < outputs * inputs; ++i) weight[i] = i / inputs % 3 == 0 ? two : one;
  linear(dtype, x.get(), inputs, rows, weight.get(), inputs, nullptr, out.get(), outputs, inputs);
  for (int64_t i = 0; i < rows * outputs; ++i) {
    const int64_t row = i / outputs, column = i % outputs;
    CHECK(out[i] == to_bits(inputs * (row % 2 == 0 ? 1 : 2) * (column % 3 == 0 ? 2 : 1)));
  }
}

uint16_t bf16_bits(int64_t value) {
  const float x = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// of whole numbers from 1 to 2048
uint16_t f16_bits(int64_t value) {
  const float x = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits >> 13) - (112u << 10));
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t rows : {1, 2, 5, 6, 7, 50}) {
      for (int64_t outputs : {1, 3, 4, 33}) {
        for (int64_t inputs : {1, 15, 16, 31, 33, 64}) {
          test_floats(rows, outputs, inputs, 0, false);
          test_floats(rows, outputs, inputs, 3, true);
          test_halves(DType::bf16, 0x3f80, 0x4000, bf16_bits, rows, outputs, inputs);
          test_halves(DType::f16, 0x3c00, 0x4000, f16_bits, rows, outputs, inputs);
        }
      }
    }
    test_floats(2, 70, 4100, 0, true);
    test_floats(0, 4, 5, 0, false);
    test_floats(4, 0, 5, 0, false);
    test_floats(3, 4, 0, 0, true);
  });
  return report();
}
