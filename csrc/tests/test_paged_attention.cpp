// paged_append and paged_attention together: what one writes the other reads.
#include "illume_fast/paged_attention.h"

#include <omp.h>

#include <algorithm>
#include <cstring>

#include "check.h"
#include "illume_fast/paged_append.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

struct Shape {
  int64_t q_heads, heads, size, page_size;
  std::vector<int64_t> lengths;
};

float widen(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  if (dtype == DType::bf16) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
  const int exponent = bits >> 10 & 31;
  const double magnitude = exponent == 0 ? (bits & 1023) * 0x1p-24 : std::ldexp(1024 + (bits & 1023), exponent - 25);
  return static_cast<float>(bits & 0x8000 ? -magnitude : magnitude);
}

// A cache in buffers of an exact size, filled by paged_append.
class Filled {
 public:
  Filled(const Shape& shape, DType dtype)
      : shape_(shape), rows_(static_cast<int64_t>(shape.lengths.size())), max_pages_(most_pages(shape)),
        element_(dtype == DType::f32 ? 4 : 2), table_(rows_ * max_pages_),
        k_(rows_ * max_pages_ * shape.page_size * shape.heads * shape.size * element_), v_(k_.size()),
        cache_{dtype, k_.get(), v_.get(), rows_ * max_pages_, shape.page_size, shape.heads, shape.size, table_.get(),
               rows_, max_pages_, max_pages_} {
    for (int64_t i = 0; i < table_.size(); ++i) table_[i] = static_cast<int32_t>(table_.size() - 1 - i);
    std::vector<int64_t> rows, positions;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t p = 0; p < shape.lengths[static_cast<size_t>(r)]; ++p) rows.push_back(r), positions.push_back(p);
    }
    const int64_t tokens = static_cast<int64_t>(rows.size()), width = shape.heads * shape.size;
    Buffer<float> k(tokens * width), v(tokens * width);
    fill(k, 1);
    fill(v, 2);
    CHECK(paged_append(DType::f32, {k.get(), width, shape.size, shape.heads}, {v.get(), width, shape.size, shape.heads},
                       cache_, {rows.data(), true}, {positions.data(), true}, tokens) == -1);
  }

  const PagedCache& cache() const { return cache_; }
  float at(const void* pages, int64_t row, int64_t position, int64_t head, int64_t i) const {
    const int64_t page = table_.get()[row * max_pages_ + position / shape_.page_size];
    return widen(cache_.dtype, pages,
                 ((page * shape_.page_size + position % shape_.page_size) * shape_.heads + head) * shape_.size + i);
  }

 private:
  static int64_t most_pages(const Shape& shape) {
    int64_t most = 1;
    for (int64_t length : shape.lengths) most = std::max(most, (length + shape.page_size - 1) / shape.page_size);
    return most;
  }

  const Shape& shape_;
  int64_t rows_, max_pages_, element_;
  Buffer<int32_t> table_;
  Buffer<char> k_, v_;
  PagedCache cache_;
};

// Floats, or bf16 numbers that are read as floats.
class Queries {
 public:
  Queries(int64_t count, bool rounded) : floats_(rounded ? 0 : count), halves_(rounded ? count : 0), rounded_(rounded) {}
  void fill_in() {
    Random random(3);
    for (int64_t i = 0; i < floats_.size(); ++i) floats_[i] = random(2.0f);
    for (int64_t i = 0; i < halves_.size(); ++i) {
      const float x = random(2.0f);
      std::memcpy(&halves_[i], reinterpret_cast<const char*>(&x) + 2, 2);
    }
  }
  void copy(int64_t i, Queries& from, int64_t at) {
    if (rounded_) halves_[i] = from.halves_[at];
    if (!rounded_) floats_[i] = from.floats_[at];
  }
  void* get() { return rounded_ ? static_cast<void*>(halves_.get()) : floats_.get(); }
  float operator[](int64_t i) {
    if (!rounded_) return floats_[i];
    const uint32_t bits = uint32_t{halves_[i]} << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

 private:
  Buffer<float> floats_;
  Buffer<uint16_t> halves_;
  bool rounded_;
};

// `rounded`: queries and results are bf16, else f32.
void test(const Shape& shape, DType dtype, bool rounded = false) {
  const Filled filled(shape, dtype);
  const int64_t tokens = static_cast<int64_t>(shape.lengths.size()), width = shape.q_heads * shape.size;
  const DType own = rounded ? DType::bf16 : DType::f32;
  Queries q(tokens * width, rounded), out(tokens * width, rounded), again(tokens * width, rounded);
  q.fill_in();
  const Heads heads{q.get(), width, shape.size, shape.q_heads};
  const Indices lengths{shape.lengths.data(), true};
  CHECK(paged_attention(own, heads, filled.cache(), {nullptr, false}, lengths, 0, 0.5f, out.get(), tokens) == -1);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t length = shape.lengths[static_cast<size_t>(t)];
    for (int64_t h = 0; h < shape.q_heads; ++h) {
      const int64_t at = t * width + h * shape.size, head = h / (shape.q_heads / shape.heads);
      std::vector<double> weights, mixed(static_cast<size_t>(shape.size), 0.0);
      double total = 0.0;
      for (int64_t p = 0; p < length; ++p) {
        double score = 0.0;
        for (int64_t i = 0; i < shape.size; ++i) score += q[at + i] * filled.at(filled.cache().k, t, p, head, i);
        total += std::exp(0.5 * score);
        for (int64_t i = 0; i < shape.size; ++i) {
          mixed[static_cast<size_t>(i)] += std::exp(0.5 * score) * filled.at(filled.cache().v, t, p, head, i);
        }
      }
      for (int64_t i = 0; i < shape.size; ++i) {
        CHECK_NEAR(out[at + i], length == 0 ? 0.0 : mixed[static_cast<size_t>(i)] / total, rounded ? 0.02 : 1e-5);
      }
    }
  }
  // one row's last tokens, as a prefill; the last has the bits of decoding
  const int64_t count = std::min<int64_t>(shape.lengths[0], tokens);
  std::vector<int32_t> rows(static_cast<size_t>(count), 0), positions;
  for (int64_t i = 0; i < count; ++i) positions.push_back(static_cast<int32_t>(shape.lengths[0] - count + i));
  Queries tail(count * width, rounded);
  for (int64_t i = 0; i < count * width; ++i) tail.copy(i, q, i % width);
  CHECK(paged_attention(own, {tail.get(), width, shape.size, shape.q_heads}, filled.cache(), {rows.data(), false},
                        {positions.data(), false}, 1, 0.5f, again.get(), count) == -1);
  for (int64_t i = 0; i < width && count > 0; ++i) CHECK(again[(count - 1) * width + i] == out[i]);
}

void test_refusals() {
  const Shape shape{2, 1, 8, 4, {9, 3}};
  Filled filled(shape, DType::f32);
  Buffer<float> q(32), out(32);
  fill(q, 1);
  const Heads heads{q.get(), 16, 8, 2};
  const auto attend = [&](std::vector<int64_t> rows, std::vector<int64_t> lengths, int64_t extra) {
    return paged_attention(DType::f32, heads, filled.cache(), {rows.data(), true}, {lengths.data(), true}, extra, 1.0f,
                           out.get(), 2);
  };
  CHECK(attend({0, 1}, {9, 3}, 0) == -1);
  CHECK(attend({0, 2}, {9, 3}, 0) == 1);
  CHECK(attend({-1, 1}, {9, 3}, 0) == 0);
  CHECK(attend({0, 1}, {9, -1}, 1) == 1);
  CHECK(attend({0, 1}, {13, 3}, 0) == 0);
  CHECK(attend({0, 1}, {12, 3}, 1) == 0);
  CHECK(attend({0, 1}, {INT64_MAX, 3}, 1) == 0);
  const Heads keys{q.get(), 8, 8, 1};
  const auto append = [&](std::vector<int64_t> rows, std::vector<int64_t> positions) {
    return paged_append(DType::f32, keys, keys, filled.cache(), {rows.data(), true}, {positions.data(), true}, 2);
  };
  CHECK(append({0, 1}, {11, 11}) == -1);
  CHECK(append({0, 2}, {0, 0}) == 1);
  CHECK(append({0, 0}, {0, 12}) == 1);
  CHECK(append({0, 0}, {-1, 0}) == 0);
  CHECK(append({0, 0}, {INT64_MAX, 0}) == 0);
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int threads : {1, 3}) {
      omp_set_num_threads(threads);
      for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        test({2, 1, 1, 1, {3}}, dtype);
        test({4, 2, 20, 5, {140, 0, 7, 129}}, dtype);
        test({7, 1, 33, 16, {17, 128, 1}}, dtype);
        test({3, 3, 64, 16, {0, 30}}, dtype);
      }
      test({1, 1, 1, 1, {3}}, DType::bf16, true);
      test({4, 2, 20, 5, {140, 0, 7, 129}}, DType::bf16, true);
      test({7, 1, 33, 16, {17, 128, 1, 5, 6, 9}}, DType::bf16, true);
      test({12, 3, 128, 16, {131, 30, 40, 1, 2, 260}}, DType::bf16, true);
      test({19, 1, 80, 16, {700, 300, 2}}, DType::bf16, true);
      test({18, 1, 80, 16, {700, 300, 2}}, DType::bf16);
      test_refusals();
    }
  });
  return report();
}
