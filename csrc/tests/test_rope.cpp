#include "illume_fast/rope.h"

#include "check.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void expect_turned(Buffer<float>& from, int64_t stride, int64_t first_head, int64_t heads, Buffer<float>& cos,
                   Buffer<float>& sin, int64_t table_rows, Buffer<float>& out, int64_t tokens, int64_t half) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t at = t * stride + (first_head + h) * 2 * half + i, to = (t * heads + h) * 2 * half + i;
        const double c = cos[t % table_rows * half + i], s = sin[t % table_rows * half + i];
        CHECK_NEAR(out[to], from[at] * c - from[at + half] * s, 1e-5);
        CHECK_NEAR(out[to + half], from[at + half] * c + from[at] * s, 1e-5);
      }
    }
  }
}

// q and k are parts of one projection that ends where the last key head does
void test_floats(int64_t tokens, int64_t q_heads, int64_t k_heads, int64_t half, int64_t table_rows) {
  const int64_t stride = (q_heads + k_heads) * 2 * half;
  Buffer<float> fused(tokens * stride), cos(table_rows * half), sin(table_rows * half);
  Buffer<float> q_out(tokens * q_heads * 2 * half), k_out(tokens * k_heads * 2 * half);
  fill(fused, 1);
  fill(cos, 2);
  fill(sin, 3);
  rope(DType::f32, {fused.get(), stride, 2 * half, q_heads}, {fused.get() + q_heads * 2 * half, stride, 2 * half, k_heads},
       cos.get(), sin.get(), table_rows, q_out.get(), k_out.get(), tokens, half);
  expect_turned(fused, stride, 0, q_heads, cos, sin, table_rows, q_out, tokens, half);
  expect_turned(fused, stride, q_heads, k_heads, cos, sin, table_rows, k_out, tokens, half);
}

void test_halves(DType dtype, uint16_t one, int64_t half) {
  Buffer<uint16_t> q(6 * half), k(2 * half), q_out(6 * half), k_out(2 * half);
  Buffer<float> cos(half), sin(half);
  for (int64_t i = 0; i < half; ++i) cos[i] = 1.0f, sin[i] = 0.0f;
  for (int64_t i = 0; i < 6 * half; ++i) q[i] = k[i % (2 * half)] = one;
  rope(dtype, {q.get(), 6 * half, 2 * half, 3}, {k.get(), 2 * half, 2 * half, 1}, cos.get(), sin.get(), 1, q_out.get(),
       k_out.get(), 1, half);
  for (int64_t i = 0; i < 6 * half; ++i) CHECK(q_out[i] == one && k_out[i % (2 * half)] == one);
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t half : {1, 3, 4, 15, 16, 17, 64}) {
      test_floats(5, 3, 1, half, 5);
      test_floats(6, 1, 2, half, 3);
      test_halves(DType::f16, 0x3c00, half);
      test_halves(DType::bf16, 0x3f80, half);
    }
    test_floats(300, 4, 2, 32, 300);
    test_floats(0, 2, 1, 8, 1);
  });
  return report();
}
