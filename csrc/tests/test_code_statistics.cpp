#include "check.h"
#include "illume_fast/code_statistics.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void test(int64_t rows, int64_t size, int64_t codes) {
  const int64_t stride = size + 2;
  Buffer<float> x(rows > 0 ? (rows - 1) * stride + size : 0), counts(codes), sums(codes * size);
  Buffer<int64_t> ids(rows), ends(codes), order(rows);
  fill(x, 1);
  for (int64_t row = 0; row < rows; ++row) ids[row] = row * 7 % (codes + 1) - 1;
  CHECK(code_statistics(DType::f32, x.get(), stride, ids.get(), ends.get(), order.get(), counts.get(), sums.get(),
                        rows, size, codes) == -1);
  for (int64_t k = 0; k < codes; ++k) {
    int64_t count = 0;
    for (int64_t row = 0; row < rows; ++row) count += ids[row] == k;
    CHECK(counts[k] == static_cast<float>(count));
    for (int64_t d = 0; d < size; ++d) {
      double total = 0.0;
      for (int64_t row = 0; row < rows; ++row) total += ids[row] == k ? x[row * stride + d] : 0.0f;
      CHECK_NEAR(sums[k * size + d], total, 1e-6 * (1.0 + std::fabs(total)));
    }
  }
  if (rows == 0) return;
  for (int64_t bad : {codes, int64_t{-2}}) {
    ids[rows - 1] = bad;
    CHECK(code_statistics(DType::f32, x.get(), stride, ids.get(), ends.get(), order.get(), counts.get(), sums.get(),
                          rows, size, codes) == rows - 1);
  }
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t size : {1, 15, 17, 300}) {
      test(0, size, 3);
      test(1, size, 1);
      test(50, size, 4);
      test(30, size, 90);
    }
  });
  return report();
}
