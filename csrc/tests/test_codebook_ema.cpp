#include "check.h"
#include "illume_fast/codebook_ema.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void test(int64_t rows, int64_t size, int64_t codes, double eps) {
  const int64_t stride = size + 2;
  const double decay = 0.75;
  Buffer<float> x(rows > 0 ? (rows - 1) * stride + size : 0), counts(codes), sums(codes * size), codebook(codes * size);
  Buffer<int64_t> ids(rows), ends(codes), order(rows);
  fill(x, 1);
  fill(sums, 2);
  for (int64_t k = 0; k < codes; ++k) counts[k] = static_cast<float>(k % 3);
  for (int64_t row = 0; row < rows; ++row) ids[row] = row * 7 % (codes + 1) - 1;
  const auto update = [&] {
    return codebook_ema(DType::f32, x.get(), stride, ids.get(), ends.get(), order.get(), counts.get(), sums.get(),
                        DType::f32, codebook.get(), decay, eps, rows, size, codes);
  };
  std::vector<double> expected_counts, expected_sums;
  double total = 0.0;
  for (int64_t k = 0; k < codes; ++k) {
    double count = 0.0;
    for (int64_t row = 0; row < rows; ++row) count += ids[row] == k;
    expected_counts.push_back(decay * counts[k] + (1.0 - decay) * count);
    total += expected_counts.back();
    for (int64_t d = 0; d < size; ++d) {
      double sum = 0.0;
      for (int64_t row = 0; row < rows; ++row) sum += ids[row] == k ? x[row * stride + d] : 0.0f;
      expected_sums.push_back(decay * sums[k * size + d] + (1.0 - decay) * sum);
    }
  }
  CHECK(update() == -1);
  for (int64_t k = 0; k < codes; ++k) {
    const double count = expected_counts[static_cast<size_t>(k)];
    const double smoothed = total == 0.0 ? 0.0 : (count + eps) * total / (total + static_cast<double>(codes) * eps);
    CHECK_NEAR(counts[k], count, 1e-6 * count);
    for (int64_t i = k * size; i < (k + 1) * size; ++i) {
      const double sum = expected_sums[static_cast<size_t>(i)];
      CHECK_NEAR(sums[i], sum, 1e-6 * (1.0 + std::fabs(sum)));
      // where there is nothing to divide by, the code stays what it was: unwritten
      if (smoothed == 0.0) CHECK(std::isnan(codebook[i]));
      if (smoothed != 0.0) CHECK_NEAR(codebook[i], sum / smoothed, 1e-6 * (1.0 + std::fabs(sum)) / smoothed);
    }
  }
  if (rows == 0) return;
  for (int64_t bad : {codes, int64_t{-2}}) {
    ids[rows - 1] = bad;
    const float before = counts[0];
    CHECK(update() == rows - 1);
    CHECK(counts[0] == before);
  }
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t size : {1, 15, 17, 63, 300}) {
      test(0, size, 1, 1e-5);
      test(0, size, 7, 0.0);
      test(1, size, 1, 1e-5);
      test(50, size, 4, 1e-5);
      test(30, size, 90, 1e-2);
    }
  });
  return report();
}
