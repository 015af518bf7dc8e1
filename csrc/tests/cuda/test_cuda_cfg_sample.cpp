// The GPU's draw, run on emulated blocks and clusters, beside that of the CPU kernels.
#include <algorithm>
#include <type_traits>

#include "check.h"
#include "cfg_sample.cuh"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

constexpr float kInf = INFINITY;

struct Settings {
  float guidance, temperature;
  int64_t top_k;
  float top_p, min_p;
  float then_temperature = 1.0f;
  int64_t then_top_k = 0;
  float then_top_p = 1.0f;
};

SampleParameters parameters(const Settings& s, int64_t seed, int64_t step, Noise noise) {
  return {{s.guidance, nullptr}, {s.temperature, nullptr}, {s.top_k, nullptr}, {s.top_p, nullptr},
          {s.min_p, nullptr},    {seed, nullptr},          {step, nullptr},    noise,
          {s.then_temperature, nullptr}, {s.then_top_k, nullptr}, {s.then_top_p, nullptr}};
}

bool is_plain(const SampleParameters& p) {
  return p.then_temperature.value == 1.0f && p.then_top_k.value == 0 && p.then_top_p.value == 1.0f;
}

// The id that is drawn, or with `weights` those.
int64_t emulate(Buffer<float>& cond, Buffer<float>& uncond, const SampleParameters& p, int blocks, int64_t cached,
                int64_t* weights = nullptr) {
  const int64_t size = cond.size(), slice = (size + blocks - 1) / blocks;
  int64_t id = -7;
  const cuda::Args args{cond.get(), uncond.get(), size, size, &id, 0, size, slice, std::min(slice, cached), p, weights};
  std::vector<Buffer<cuda::Shared>> shared;
  std::vector<Buffer<int32_t>> keys;
  std::vector<char*> bases;
  for (int b = 0; b < blocks; ++b) {
    shared.emplace_back(1);
    keys.emplace_back(args.cached);
    bases.push_back(reinterpret_cast<char*>(shared.back().get()));
  }
  const float guidance = p.guidance.value;
  const auto run = [&](auto two, auto then) {
    constexpr bool kTwo = decltype(two)::value, kThen = decltype(then)::value;
    const size_t b = emulated::block();
    if (weights != nullptr) {
      cuda::weigh_row<float, kTwo>(args, 0, guidance, keys[b].get(), *shared[b].get());
    } else {
      cuda::sample_row<float, kTwo, kThen>(args, 0, guidance, keys[b].get(), *shared[b].get());
    }
  };
  const bool one = guidance == 1.0f || guidance == 0.0f;
  emulated::run_cluster(blocks, cuda::kThreads, bases, [&] {
    if (one) {
      is_plain(p) ? run(std::false_type{}, std::false_type{}) : run(std::false_type{}, std::true_type{});
    } else {
      is_plain(p) ? run(std::true_type{}, std::false_type{}) : run(std::true_type{}, std::true_type{});
    }
  });
  return id;
}

void compare(Buffer<float>& cond, Buffer<float>& uncond, const Settings& settings, int64_t seed) {
  const int64_t size = cond.size();
  for (const Noise noise : {Noise::inverse, Noise::race}) {
    const SampleParameters p = parameters(settings, seed, 3 + (seed << 40), noise);
    int64_t expected = -9;
    CHECK(cfg_sample(DType::f32, cond.get(), size, uncond.get(), size, &expected, 0, 1, size, p));
    CHECK(emulate(cond, uncond, p, 1, size) == expected);
    CHECK(emulate(cond, uncond, p, 2, 5) == expected);  // most keys are mixed again
  }
  const SampleParameters p = parameters(settings, seed, 0, Noise::inverse);
  Buffer<int64_t> expected(size), weights(size);
  CHECK(cfg_weights(DType::f32, cond.get(), size, uncond.get(), size, expected.get(), 1, size, p));
  for (const int blocks : {1, 2}) {
    std::fill(weights.get(), weights.get() + size, -7);
    emulate(cond, uncond, p, blocks, blocks == 1 ? size : 5, weights.get());
    // the last bits of an exponential may differ, in float32
    for (int64_t i = 0; i < size; ++i) CHECK(std::abs(weights[i] - expected[i]) <= 1 + (std::abs(expected[i]) >> 20));
  }
}

// Runners of any two blocks may be first together, those of ~0 are none, and -log(1) is a minus zero.
void first_homes(int blocks, double zero) {
  std::vector<Buffer<cuda::Shared>> shared;
  std::vector<char*> bases;
  for (int b = 0; b < blocks; ++b) {
    shared.emplace_back(1);
    bases.push_back(reinterpret_cast<char*>(shared.back().get()));
  }
  const int last = blocks * cuda::kThreads - 1;
  for (const int other : {0, 31, 32, 511, last - 1}) {
    int agreed = 0;
    emulated::run_cluster(blocks, cuda::kThreads, bases, [&] {
      const int own = emulated::machine.current;
      const bool first = own == other || own == last;
      const double time = first ? (own == last ? 0.0 : zero) : own % 2 == 0 ? INFINITY : 0.5;
      const auto id = own % 2 == 0 && !first ? ~0ull : 1000ull + static_cast<unsigned long long>(last - own);
      agreed += cuda::first_home(time, id, *shared[emulated::block()].get()) == 1000;
    });
    CHECK(agreed == last + 1);
  }
}

}  // namespace

int main() {
  const Settings all[] = {
      {3.0f, 1.0f, 0, 1.0f, 0.0f},   {3.0f, 1.0f, 20, 1.0f, 0.0f},  {1.0f, 0.7f, 0, 0.8f, 0.0f},
      {0.0f, 1.0f, 0, 1.0f, 0.1f},   {2.5f, 1.7f, 60, 0.6f, 0.02f}, {3.0f, 0.0f, 5, 0.5f, 0.0f},
      {3.0f, 1.0f, 1, 1.0f, 0.0f},   {-1.0f, 1e30f, 7, 0.0f, 0.0f}, {NAN, 1.0f, 0, 1.0f, 0.0f},
      {3.0f, 1.0f, 9999, 1.0f, 1.0f}, {2.0f, 1.3f, 30, 0.9f, 0.0f, 0.7f, 20, 0.8f},
      {1.0f, 1.0f, 0, 0.7f, 0.0f, 1.0f, 5, 1.0f}, {2.0f, 0.5f, 0, 1.0f, 0.01f, 2.0f, 0, 0.6f},
      {2.0f, 0.0f, 4, 1.0f, 0.0f, 2.0f, 0, 0.6f}, {2.0f, 1.0f, 4, 1.0f, 0.0f, 0.0f, 0, 0.6f}};
  int64_t seed = 1;
  for (const int64_t size : {33, 301, 700}) {
    for (const Settings& settings : all) {
      Buffer<float> cond(size), uncond(size);
      Random random(static_cast<uint64_t>(++seed));
      for (int64_t i = 0; i < size; ++i) {
        cond[i] = random(6.0f);
        uncond[i] = random(6.0f);
        if (seed % 2 == 0) continue;
        // ties, and masked tokens
        cond[i] = std::round(cond[i]);
        uncond[i] = std::round(uncond[i]);
        if (random() > 0.5f) cond[i] = -kInf;
      }
      compare(cond, uncond, settings, seed);
    }
  }
  for (const float bad : {NAN, kInf, -kInf}) {
    Buffer<float> cond(40), uncond(40);
    fill(uncond, 5);
    for (int64_t i = 0; i < 40; ++i) cond[i] = bad == -kInf ? bad : uncond[i];
    cond[17] = bad;
    compare(cond, uncond, all[5], 1);
  }
  for (const int blocks : {1, 2}) {
    for (const double zero : {0.0, -0.0}) first_homes(blocks, zero);
  }
  return report();
}
