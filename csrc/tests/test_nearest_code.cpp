#include "check.h"
#include "illume_fast/nearest_code.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

double score(Metric metric, const float* x, const float* code, int64_t size) {
  double product = 0.0, squared = 0.0, distance = 0.0;
  for (int64_t d = 0; d < size; ++d) {
    product += double{x[d]} * code[d];
    squared += double{code[d]} * code[d];
    distance += (double{x[d]} - code[d]) * (double{x[d]} - code[d]);
  }
  if (metric == Metric::l2) return -distance;
  return metric == Metric::dot ? product : squared > 0.0 ? product / std::sqrt(squared) : 0.0;
}

struct Packed {
  Buffer<float> panels, offsets, longest, errors, center;
  Buffer<uint32_t> pairs;
  PackedCodes view;

  Packed(Metric metric, const Buffer<float>& codes, int64_t count, int64_t size)
      : Packed(metric, codes, count, size, (count + kBlockCodes - 1) / kBlockCodes) {}

 private:
  Packed(Metric metric, const Buffer<float>& codes, int64_t count, int64_t size, int64_t blocks)
      : panels(blocks * kBlockCodes * size),
        offsets(blocks * kBlockCodes),
        longest(blocks),
        errors(blocks),
        center(size),
        pairs(blocks * kBlockCodes * ((size + 1) / 2)) {
    nearest_code_pack(metric, codes.get(), count, size, panels.get(), pairs.get(), offsets.get(), longest.get(),
                      errors.get(), center.get());
    view = {codes.get(),   count,         size,         panels.get(), pairs.get(),
            offsets.get(), longest.get(), errors.get(), center.get()};
  }
};

// `spread` < 1 brings the codes so close together that float32 scores cannot tell them apart
void test(Metric metric, int64_t rows, int64_t count, int64_t size, float scale, float spread = 1.0f) {
  Buffer<float> codes(count * size), x(rows * size);
  fill(codes, 1, scale);
  fill(x, 2, scale);
  if (spread < 1.0f) {
    for (int64_t i = size; i < count * size; ++i) codes[i] = codes[i % size] + spread * codes[i];
  }
  const Packed packed(metric, codes, count, size);
  Buffer<int64_t> ids(rows), transposed(rows);
  CHECK(nearest_code(metric, DType::f32, x.get(), 1, 0, rows, size, 1, packed.view, ids.get()));
  for (int64_t row = 0; row < rows; ++row) {
    int64_t best = 0;
    for (int64_t k = 1; k < count; ++k) {
      const float* mine = codes.get() + k * size;
      if (score(metric, x.get() + row * size, mine, size) >
          score(metric, x.get() + row * size, codes.get() + best * size, size)) {
        best = k;
      }
    }
    CHECK(ids[row] == best);
  }
  Buffer<float> columns(rows * size);
  for (int64_t i = 0; i < rows * size; ++i) columns[i % size * rows + i / size] = x[i];
  CHECK(nearest_code(metric, DType::f32, columns.get(), 1, 0, rows, 1, rows, packed.view, transposed.get()));
  for (int64_t row = 0; row < rows; ++row) CHECK(transposed[row] == ids[row]);
}

void test_halves(DType dtype, uint16_t one, uint16_t nan, int64_t size) {
  Buffer<uint16_t> x(2 * size);
  for (int64_t d = 0; d < 2 * size; ++d) x[d] = one;
  x[2 * size - 1] = nan;
  Buffer<float> codes(3 * size);
  for (int64_t i = 0; i < 3 * size; ++i) codes[i] = i < size ? 0.0f : 1.0f;
  const Packed packed(Metric::l2, codes, 3, size);
  Buffer<int64_t> ids(2);
  CHECK(nearest_code(Metric::l2, dtype, x.get(), 2, size, 1, 0, 1, packed.view, ids.get()));
  CHECK(ids[0] == 1 && ids[1] == -1);
}

}  // namespace

int main() {
  for_each_isa([] {
    for (Metric metric : {Metric::l2, Metric::cosine, Metric::dot}) {
      for (float scale : {1.0f, 1e30f, 1e-30f}) {
        test(metric, 1, 1, 1, scale);
        test(metric, 13, 129, 7, scale);
        test(metric, 150, 300, 33, scale);
        test(metric, 3, 700, 16, scale);
      }
    }
    test(Metric::cosine, 20, 700, 24, 1.0f, 1e-6f);
    test(Metric::dot, 20, 700, 24, 1.0f, 1e-6f);
    test(Metric::l2, 20, 700, 24, 1.0f, 1e-6f);
    for (int64_t size : {1, 15, 16, 40}) {
      test_halves(DType::bf16, 0x3f80, 0x7fc0, size);
      test_halves(DType::f16, 0x3c00, 0x7e00, size);
    }
    test(Metric::l2, 1100, 20, 2, 1.0f);
  });
  return report();
}
