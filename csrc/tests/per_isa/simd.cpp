// csrc/cpu/simd.h, compiled and run for each instruction set.
#include "../../cpu/simd.h"

#include <algorithm>
#include <limits>

#include "../check.h"

using namespace illume_fast;
using namespace illume_fast::testing;
using namespace illume_fast::ILLUME_FAST_ISA_NS;

#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return fraction ? std::nan("") : sign * static_cast<double>(kInf);
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

void test_every_half_loads_and_comes_back() {
  for (int bits = 0; bits < 65536; ++bits) {
    const f16 h{static_cast<uint16_t>(bits)};
    const float x = load_one(&h);
    CHECK_NEAR(x, half_value(h.bits), 0.0);
    f16 back;
    store_one(&back, x);
    CHECK(std::isnan(x) ? std::isnan(half_value(back.bits)) : back.bits == h.bits);
  }
}

// between two neighbours of a 16-bit type the nearer is stored, and of two equally near the one with an even last bit
template <typename T, typename Value>
void test_rounding(int end, Value value) {
  for (int bits = 0; bits < end; ++bits) {
    const double low = value(bits), high = value(bits + 1);
    const double middle = (low + high) / 2;
    T stored;
    store_one(&stored, static_cast<float>(middle));
    CHECK(stored.bits == (bits & 1 ? bits + 1 : bits));
    store_one(&stored, std::nextafterf(static_cast<float>(middle), kInf));
    CHECK(stored.bits == bits + 1);
    store_one(&stored, -std::nextafterf(static_cast<float>(middle), 0.0f));
    CHECK(stored.bits == (bits | 0x8000));
  }
}

double bfloat_value(int bits) {
  const bf16 b{static_cast<uint16_t>(bits)};
  return static_cast<double>(load_one(&b));
}

void test_overflow_and_nan() {
  f16 h;
  store_one(&h, 65519.9f);
  CHECK(h.bits == 0x7bff);
  store_one(&h, -65520.0f);
  CHECK(h.bits == 0xfc00);
  store_one(&h, std::nanf(""));
  CHECK(std::isnan(half_value(h.bits)));
  bf16 b;
  store_one(&b, std::numeric_limits<float>::max());
  CHECK(b.bits == 0x7f80);
  store_one(&b, std::nanf(""));
  CHECK(std::isnan(load_one(&b)));
}

void test_exp() {
  for (float x = -110.0f; x < 95.0f; x += 0.00371f) {
    const double expected = std::exp(static_cast<double>(x));
    // two units in the last place, or the smallest subnormal; beyond the largest float the answer is inf
    const double tolerance = std::max(expected * 2.4e-7, 1.5e-45);
    CHECK_NEAR(illume_fast::ILLUME_FAST_ISA_NS::exp(broadcast(x))[0], static_cast<float>(expected), tolerance);
  }
  CHECK(illume_fast::ILLUME_FAST_ISA_NS::exp(broadcast(-kInf))[0] == 0.0f);
  CHECK(illume_fast::ILLUME_FAST_ISA_NS::exp(broadcast(kInf))[0] == kInf);
  CHECK(illume_fast::ILLUME_FAST_ISA_NS::exp(broadcast(0.0f))[0] == 1.0f);
  CHECK(std::isnan(illume_fast::ILLUME_FAST_ISA_NS::exp(broadcast(std::nanf("")))[0]));
}

void test_lanes() {
  for (int n = 0; n <= kLanes; ++n) {
    Buffer<float> from(n), to(n);
    fill(from, 5);
    const vf x = load_n(from.get(), n);
    double total = 0.0;
    for (int i = 0; i < kLanes; ++i) CHECK(x[i] == (i < n ? from[i] : 0.0f));
    for (int i = 0; i < n; ++i) total += from[i];
    CHECK_NEAR(sum(x), total, 1e-5);
    store_n(to.get(), x, n);
    for (int i = 0; i < n; ++i) CHECK(to[i] == from[i]);
    if (n == kLanes) CHECK(max_lane(x) == *std::max_element(from.get(), from.get() + n));
  }
  CHECK(illume_fast::ILLUME_FAST_ISA_NS::abs(broadcast(-2.0f))[0] == 2.0f);
  CHECK(illume_fast::ILLUME_FAST_ISA_NS::sqrt(broadcast(9.0f))[kLanes - 1] == 3.0f);
  CHECK(select(broadcast(1.0f) < broadcast(2.0f), broadcast(3.0f), broadcast(4.0f))[0] == 3.0f);
}

}  // namespace

int main() {
  const std::vector<std::string> have = available_isas();
  if (std::find(have.begin(), have.end(), STRINGIFY(ILLUME_FAST_ISA_NS)) == have.end()) {
    std::printf("skipped: this CPU lacks %s\n", STRINGIFY(ILLUME_FAST_ISA_NS));
    return 77;
  }
  test_every_half_loads_and_comes_back();
  test_rounding<f16>(0x7bff, [](int bits) { return half_value(static_cast<uint16_t>(bits)); });
  test_rounding<bf16>(0x7f7f, bfloat_value);
  test_overflow_and_nan();
  test_exp();
  test_lanes();
  return report();
}
