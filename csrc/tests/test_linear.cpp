#include <cmath>
#include <cstring>

#include "check.h"
#include "illume_fast/linear.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void one_layer(DType dtype, const void* x, int64_t stride, int64_t rows, const void* weight, int64_t weight_stride,
               const void* bias, void* out, int64_t outputs, int64_t inputs) {
  const LinearLayer layer{weight, weight_stride, bias, out, outputs};
  linear(dtype, {x, stride, rows, inputs}, &layer, 1);
}

void test_floats(int64_t rows, int64_t outputs, int64_t inputs, int64_t gap, bool with_bias) {
  const int64_t stride = inputs + gap;
  const auto room = [=](int64_t n) { return n > 0 ? (n - 1) * stride + inputs : 0; };
  Buffer<float> x(room(rows)), weight(room(outputs)), bias(outputs), out(rows * outputs);
  fill(x, 1);
  fill(weight, 2);
  fill(bias, 3);
  one_layer(DType::f32, x.get(), stride, rows, weight.get(), stride, with_bias ? bias.get() : nullptr, out.get(), outputs,
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
  one_layer(dtype, x.get(), inputs, rows, weight.get(), inputs, nullptr, out.get(), outputs, inputs);
  for (int64_t i = 0; i < rows * outputs; ++i) {
    const int64_t row = i / outputs, column = i % outputs;
    CHECK(out[i] == to_bits(inputs * (row % 2 == 0 ? 1 : 2) * (column % 3 == 0 ? 2 : 1)));
  }
}

// several layers at once, and the two that meet in swiglu, have the bits of single ones
void test_layers(int64_t rows, int64_t first, int64_t second, int64_t inputs) {
  const int64_t outputs[] = {first, 0, second};
  Buffer<float> x(rows * inputs), weight((first + second) * inputs), bias(first);
  Buffer<float> one(rows * first), other(rows * second), one_alone(rows * first), other_alone(rows * second);
  fill(x, 4);
  fill(weight, 5);
  fill(bias, 6);
  const float* weights[] = {weight.get(), nullptr, weight.get() + first * inputs};
  const float* biases[] = {bias.get(), nullptr, nullptr};
  float* together[] = {one.get(), nullptr, other.get()};
  float* alone[] = {one_alone.get(), nullptr, other_alone.get()};
  LinearLayer layers[3];
  for (int i = 0; i < 3; ++i) {
    layers[i] = {weights[i], inputs, biases[i], together[i], outputs[i]};
    one_layer(DType::f32, x.get(), inputs, rows, weights[i], inputs, biases[i], alone[i], outputs[i], inputs);
  }
  linear(DType::f32, {x.get(), inputs, rows, inputs}, layers, 3);
  for (int64_t i = 0; i < rows * first; ++i) CHECK(one[i] == one_alone[i]);
  for (int64_t i = 0; i < rows * second; ++i) CHECK(other[i] == other_alone[i]);

  const int64_t joined = first < second ? first : second;
  layers[0].outputs = layers[2].outputs = joined;
  Buffer<float> out(rows * joined);
  swiglu_linear(DType::f32, {x.get(), inputs, rows, inputs}, layers[0], layers[2], out.get());
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < joined; ++n) {
      const double gate = double{one_alone[m * first + n]} - bias[n], up = other_alone[m * second + n];
      CHECK_NEAR(out[m * joined + n], gate / (1 + std::exp(-gate)) * up, 1e-4);
    }
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
    for (int64_t rows : {1, 7, 61}) {
      test_layers(rows, 70, 33, 20);
      test_layers(rows, 3, 3, 2100);
    }
    test_floats(2, 70, 4100, 0, true);
    test_floats(0, 4, 5, 0, false);
    test_floats(4, 0, 5, 0, false);
    test_floats(3, 4, 0, 0, true);
  });
  return report();
}
