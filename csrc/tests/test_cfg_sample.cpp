#include <algorithm>
#include <cstring>

#include "check.h"
#include "illume_fast/cfg_sample.h"
#include "illume_fast/philox.h"
#include "illume_fast/repetition_penalty.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

struct Settings {
  float guidance, temperature;
  int64_t top_k;
  float top_p, min_p;
  float then_temperature = 1.0f;
  int64_t then_top_k = 0;
  float then_top_p = 1.0f;
};

SampleParameters parameters(const Settings& s, int64_t seed, int64_t step) {
  return {{s.guidance, nullptr}, {s.temperature, nullptr}, {s.top_k, nullptr}, {s.top_p, nullptr},
          {s.min_p, nullptr},    {seed, nullptr},          {step, nullptr},    Noise::inverse,
          {s.then_temperature, nullptr}, {s.then_top_k, nullptr}, {s.then_top_p, nullptr}};
}

// whether the rule lets `id` be drawn, by counting and adding in double; near a border either answer is right
bool may_draw(const float* cond, const float* uncond, int64_t size, const Settings& s, int64_t id) {
  std::vector<double> z(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    z[static_cast<size_t>(i)] = s.guidance == 1.0f ? cond[i] : uncond[i] + double{s.guidance} * (cond[i] - uncond[i]);
  }
  const double mine = z[static_cast<size_t>(id)], best = *std::max_element(z.begin(), z.end());
  if (s.temperature == 0.0f) return mine >= best - 1e-5;
  std::vector<double> sorted = z;
  std::sort(sorted.begin(), sorted.end(), [](double a, double b) { return a > b; });
  if (s.top_k > 0 && s.top_k < size) sorted.resize(static_cast<size_t>(s.top_k));
  if (mine < sorted.back() - 1e-5) return false;
  double total = 0.0, before = 0.0;
  for (double v : sorted) {
    const double w = std::exp((v - best) / s.temperature);
    total += w;
    if (v > mine + 1e-5) before += w;
  }
  return before <= s.top_p * total + 1e-6 && std::exp((mine - best) / s.temperature) >= s.min_p - 1e-6;
}

void test_draws(int64_t size, const Settings& s) {
  const int64_t rows = 3, stride = size + 3;
  Buffer<float> cond((rows - 1) * stride + size), uncond((rows - 1) * size + size);
  fill(cond, 1, 6.0f);
  fill(uncond, 2, 6.0f);
  Buffer<int64_t> ids(rows);
  CHECK(cfg_sample(DType::f32, cond.get(), stride, uncond.get(), size, ids.get(), 0, rows, size, parameters(s, 5, 7)));
  for (int64_t row = 0; row < rows; ++row) {
    CHECK(ids[row] >= 0 && ids[row] < size);
    CHECK(may_draw(cond.get() + row * stride, uncond.get() + row * size, size, s, ids[row]));
  }
}

std::vector<int64_t> weights_of(Buffer<float>& cond, Buffer<float>& uncond, const Settings& s) {
  Buffer<int64_t> weights(cond.size());
  CHECK(cfg_weights(DType::f32, cond.get(), cond.size(), uncond.get(), cond.size(), weights.get(), 1, cond.size(),
                    parameters(s, 0, 0)));
  return {weights.get(), weights.get() + cond.size()};
}

// What a second chain leaves is what one chain leaves, where one can say the same; and it leaves no more than the first.
void test_second_chain(int64_t size) {
  Buffer<float> cond(size), uncond(size);
  fill(cond, 3, 6.0f);
  fill(uncond, 4, 6.0f);
  const auto twice = weights_of(cond, uncond, {2.0f, 0.5f, 20, 1.0f, 0.0f, 3.0f, 11, 0.8f});
  CHECK(twice == weights_of(cond, uncond, {2.0f, 1.5f, 11, 0.8f, 0.0f}));
  const auto first = weights_of(cond, uncond, {2.0f, 0.5f, 0, 0.6f, 0.0f});
  const auto both = weights_of(cond, uncond, {2.0f, 0.5f, 0, 0.6f, 0.0f, 2.0f, 0, 0.7f});
  int64_t fewer = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    CHECK(both[i] == 0 || both[i] >= first[i]);
    CHECK(both[i] == 0 || first[i] > 0);
    fewer += both[i] == 0 && first[i] > 0;
  }
  CHECK(fewer > 0 || size < 100);
  CHECK(weights_of(cond, uncond, {2.0f, 0.0f, 9, 0.5f, 0.0f, 2.0f, 3, 0.7f})[0] >= 0);
  CHECK(weights_of(cond, uncond, {2.0f, 1.0f, 9, 0.5f, 0.0f, 0.0f, 3, 0.7f})[0] == -1);
}

void test_repetition_penalty() {
  Buffer<float> logits(8), out(8), penalty(2);
  const float values[] = {2.0f, -2.0f, 0.0f, 3.0f, 5.0f, -INFINITY, 1.0f, 1.0f};
  std::copy(values, values + 8, logits.get());
  Buffer<int64_t> seen(10), counts(2);
  const int64_t ids[] = {100, 101, 101, 107, -1, 101, 100, 103, 102, 102};
  std::copy(ids, ids + 10, seen.get());
  counts[0] = 4;
  counts[1] = 2;
  penalty[0] = 2.0f;
  penalty[1] = 0.5f;
  repetition_penalty(DType::f32, logits.get(), out.get(), 2, 4, 100, {seen.get(), 5, 5, counts.get()},
                     {1.0f, penalty.get()});
  const float expected[] = {1.0f, -4.0f, 0.0f, 3.0f, 10.0f, -INFINITY, 1.0f, 1.0f};
  for (int64_t i = 0; i < 8; ++i) CHECK(out[i] == expected[i]);
  repetition_penalty(DType::f32, logits.get(), out.get(), 1, 4, 100, {seen.get(), 5, 5, counts.get()}, {0.0f, nullptr});
  for (int64_t i = 0; i < 4; ++i) CHECK(std::isnan(out[i]));
}

// 16-bit rows of an exact size: one finite token, at the very end
void test_halves(DType dtype, uint16_t minus_inf, int64_t size) {
  Buffer<uint16_t> cond(size);
  for (int64_t i = 0; i < size; ++i) cond[i] = i == size - 1 ? 0 : minus_inf;
  Buffer<int64_t> ids(1);
  const Settings s{2.0f, 1.0f, 5, 0.9f, 0.1f};
  CHECK(cfg_sample(dtype, cond.get(), size, cond.get(), size, ids.get(), 40, 1, size, parameters(s, 1, 2)));
  CHECK(ids[0] == 40 + size - 1);
}

void test_bad_rows() {
  const float inf = INFINITY;
  Buffer<float> cond(12);
  for (int64_t i = 0; i < 12; ++i) cond[i] = -inf;
  cond[4] = NAN;
  cond[9] = inf;
  Buffer<int64_t> ids(3);
  const Settings s{1.0f, 1.0f, 0, 1.0f, 0.0f};
  CHECK(cfg_sample(DType::f32, cond.get(), 4, nullptr, 0, ids.get(), 9, 3, 4, parameters(s, 1, 2)));
  for (int64_t i = 0; i < 3; ++i) CHECK(ids[i] == -1);
  CHECK(cfg_sample(DType::f32, nullptr, 0, nullptr, 0, ids.get(), 9, 0, 4, parameters(s, 1, 2)));
  ids[1] = 7;
  CHECK(cfg_sample(DType::f32, nullptr, 0, nullptr, 0, ids.get(), 9, 3, 0, parameters(s, 1, 2)));
  CHECK(ids[1] == -1);
}

void test_mix(int64_t size) {
  Buffer<float> cond(3 * size), uncond(3 * size), out(3 * size), guidance(3);
  fill(cond, 1);
  fill(uncond, 2);
  guidance[0] = 1.0f;
  guidance[1] = 0.0f;
  guidance[2] = 2.5f;
  cond[0] = INFINITY;
  cfg_mix(DType::f32, cond.get(), size, uncond.get(), size, DType::f32, out.get(), 3, size, {0.0f, guidance.get()});
  for (int64_t i = 0; i < size; ++i) {
    CHECK(out[i] == cond[i]);
    CHECK(out[size + i] == uncond[size + i]);
    CHECK_NEAR(out[2 * size + i], uncond[2 * size + i] + 2.5 * (cond[2 * size + i] - uncond[2 * size + i]), 1e-6);
  }
  Buffer<uint16_t> half(size);
  cfg_mix(DType::f32, uncond.get(), size, uncond.get(), size, DType::bf16, half.get(), 1, size, {1.0f, nullptr});
  uint32_t bits;
  std::memcpy(&bits, &uncond[0], sizeof bits);
  CHECK(half[0] == (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

int main() {
  // the first two words of Random123's known answer for an all-zero key and counter
  CHECK(philox(0, 0) == 0xe169c58d6627e8d5u);
  CHECK(philox(0x299f31d0a4093822u, 0x85a308d3243f6a88u, 0x13198a2eu, 0x03707344u) == 0x94fdccebd16cfe09u);
  for_each_isa([] {
    for (int64_t size : {1, 2, 15, 16, 17, 100, 4096, 5003, 20000}) {
      test_draws(size, {3.0f, 1.0f, 0, 1.0f, 0.0f});
      test_draws(size, {3.0f, 0.7f, size / 16 + 1, 0.8f, 0.0f});
      test_draws(size, {1.0f, 2.0f, size / 2, 1.0f, 0.2f});
      test_draws(size, {-1.0f, 1.0f, 0, 0.5f, 0.0f});
      test_draws(size, {2.0f, 0.0f, 0, 1.0f, 0.0f});
      test_draws(size, {2.0f, 50.0f, 1, 1.0f, 0.0f});
      test_draws(size, {2.0f, 50.0f, 3, 1.0f, 0.0f});
      test_halves(DType::bf16, 0xff80, size);
      test_halves(DType::f16, 0xfc00, size);
    }
    test_bad_rows();
    for (int64_t size : {1, 16, 35}) test_mix(size);
  });
  for (const int64_t size : {1, 40, 700, 9000}) test_second_chain(size);
  test_repetition_penalty();
  return report();
}
