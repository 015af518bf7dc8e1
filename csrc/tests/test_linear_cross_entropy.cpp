#include "check.h"
#include "illume_fast/linear_cross_entropy.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

// the gradient is asked for all but the first third of the outputs
void test(int64_t rows, int64_t outputs, int64_t inputs, int64_t gap) {
  const int64_t stride = inputs + gap;
  Buffer<float> x(rows * stride), weight(outputs * stride), grads(rows), losses(rows), normalizers(rows);
  Buffer<int64_t> labels(rows);
  fill(x, 1, 2.0f);
  fill(weight, 2, 2.0f);
  fill(grads, 3);
  for (int64_t m = 0; m < rows; ++m) labels[m] = m * 7919 % outputs;
  CHECK(linear_cross_entropy(DType::f32, x.get(), stride, rows, weight.get(), stride, labels.get(), losses.get(),
                             normalizers.get(), outputs, inputs));
  const int64_t first = outputs / 3, count = outputs - first;
  Buffer<float> slopes(rows * count);
  linear_cross_entropy_logit_gradients(DType::f32, x.get(), stride, rows, weight.get() + first * stride, stride,
                                       labels.get(), normalizers.get(), grads.get(), slopes.get(), first, count,
                                       inputs);
  std::vector<double> logits(static_cast<size_t>(outputs));
  for (int64_t m = 0; m < rows; ++m) {
    double mass = 0.0;
    for (int64_t n = 0; n < outputs; ++n) {
      double logit = 0.0;
      for (int64_t k = 0; k < inputs; ++k) logit += double{x[m * stride + k]} * weight[n * stride + k];
      logits[static_cast<size_t>(n)] = logit;
      mass += std::exp(logit);
    }
    const double normalizer = std::log(mass);
    CHECK_NEAR(normalizers[m], normalizer, 1e-4);
    CHECK_NEAR(losses[m], normalizer - logits[static_cast<size_t>(labels[m])], 1e-4);
    for (int64_t n = 0; n < count; ++n) {
      const double share = std::exp(logits[static_cast<size_t>(first + n)] - normalizer);
      CHECK_NEAR(slopes[m * count + n], grads[m] * (share - (labels[m] == first + n ? 1.0 : 0.0)), 1e-4);
    }
  }
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t rows : {1, 7, 49}) {
      for (int64_t outputs : {1, 31, 33, 1030}) {
        for (int64_t inputs : {1, 17, 40}) test(rows, outputs, inputs, inputs % 2);
      }
    }
    test(490, 40, 5, 0);
  });
  return report();
}
