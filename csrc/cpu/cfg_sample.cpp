#include "illume_fast/cfg_sample.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "candidates.h"
#include "illume_fast/philox.h"
#include "parallel.h"
#include "race.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr double kWeightScale = 0x1p40;

// logits a thread should have to be worth waking
constexpr int64_t kGrain = 16384;

typedef float vfh __attribute__((vector_size(kHalf * 4)));

template <typename T>
inline T at(const PerRow<T>& parameter, int64_t row) {
  return parameter.rows != nullptr ? parameter.rows[row] : parameter.value;
}

// exp((z - best) / temperature) of the keys from `least` on, in multiples of 2^-40; 0 for the others. Returns their sum.
int64_t weigh(const int32_t* keys, int64_t n, int32_t least, float best, float temperature, int64_t* weights) {
  const float inverse = std::fmin(1.0f / temperature, FLT_MAX);
  const vd magic = 0x1p52 - vd{};  // the sum's low bits are the rounded integer
  vl total{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const vi key = load_keys(keys + i);
    const vf w = select(key >= least, exp((from_key(key) - best) * inverse), vf{});
    vfh halves[2];
    std::memcpy(halves, &w, sizeof w);
    for (int h = 0; h < 2; ++h) {
      const vd scaled = __builtin_convertvector(halves[h], vd) * kWeightScale + magic;
      const vl fixed = (vl)scaled - (vl)magic;
      std::memcpy(weights + i + h * kHalf, &fixed, sizeof fixed);
      total += fixed;
    }
  }
  return sum(total);
}

// The position of the draw among weights that are at least `floor` and whose key is at least `least`.
int64_t draw(const int32_t* keys, const int64_t* weights, int64_t n, int32_t least, int64_t floor, uint64_t random,
             int64_t* blocks) {
  int64_t total = 0;
  for (int64_t begin = 0, block = 0; begin < n; begin += kBlock, ++block) {
    const int64_t end = begin + kBlock < n ? begin + kBlock : n;
    vl mass{};
    for (int64_t i = begin; i < end; i += kHalf) {
      const vl w = load_as<vl>(weights + i);
      mass += __builtin_convertvector(load_as<vk>(keys + i) >= least, vl) & (w >= floor) & w;
    }
    blocks[block] = sum(mass);
    total += blocks[block];
  }
  int64_t target = static_cast<int64_t>(static_cast<unsigned __int128>(random) * static_cast<uint64_t>(total) >> 64);
  int64_t block = 0;
  while (target >= blocks[block]) target -= blocks[block++];
  int64_t i = block * kBlock;
  for (;; ++i) {
    if (keys[i] < least || weights[i] < floor) continue;
    if (target < weights[i]) return i;
    target -= weights[i];
  }
}

// What the filters have left of a row: the candidates of key `least` or more whose weight is at least `floor`.
struct Kept {
  Candidates c;
  int32_t least;
  int64_t floor;
};

enum class Outcome { none, best, several };

// Top-p among the candidates of key `least` or more: the least key that stays. Leaves their weights in s.weights.
int32_t top_mass(const Candidates& c, int32_t least, float temperature, float top_p, Workspace& s) {
  const vf best = from_key(broadcast_int(c.top));
  const int64_t total = weigh(c.keys, c.count, least, best[0], temperature, s.weights);
  if (top_p >= 1.0f) return least;
  const int64_t limit = static_cast<int64_t>(static_cast<double>(top_p) * static_cast<double>(total));
  return least_threshold<true>(c.keys, s.weights, c.count, limit, least, c.top, s.search_keys, s.search_weights);
}

// A chain keeps a prefix of the tokens in their order, so that a second one goes on from the least key of the first.
[[gnu::noinline]] int32_t second_chain(const Kept& kept, float temperature, int64_t top_k, float top_p, int64_t size, Workspace& s) {
  const Candidates& c = kept.c;
  int32_t least = kept.least;
  if (top_k > 0 && top_k < size) {
    least = least_threshold<false>(c.keys, nullptr, c.count, top_k - 1, least, c.top, s.search_keys, nullptr);
  }
  return top_mass(c, least, temperature, top_p, s);
}

// Of Outcome::best, only the keys and positions of the candidates count.
template <typename T>
Outcome filter(const T* cond, const T* uncond, int64_t size, const SampleParameters& p, int64_t row, Workspace& s,
               Kept* kept) {
  const float guidance = at(p.guidance, row), temperature = at(p.temperature, row);
  const float top_p = at(p.top_p, row), min_p = at(p.min_p, row);
  const int64_t top_k = at(p.top_k, row), then_top_k = at(p.then_top_k, row);
  const float then_temperature = at(p.then_temperature, row), then_top_p = at(p.then_top_p, row);
  const bool valid = std::isfinite(guidance) && temperature >= 0.0f && temperature < kInf && top_k >= 0 &&
                     top_p >= 0.0f && top_p <= 1.0f && min_p >= 0.0f && min_p <= 1.0f && then_temperature > 0.0f &&
                     then_temperature < kInf && then_top_k >= 0 && then_top_p >= 0.0f && then_top_p <= 1.0f;
  if (!valid || size == 0) return Outcome::none;
  const Candidates c = candidates(cond, uncond, guidance, size, temperature == 0.0f ? 1 : top_k, s);
  *kept = {c, kKeyOfMinusInf, 0};
  if (c.top >= kKeyOfInf || c.top == kKeyOfMinusInf) return Outcome::none;
  if (temperature == 0.0f) return Outcome::best;
  if (top_k > 0 && top_k < size) {
    // one below the keys there are, so that the least of them can be the answer
    const int32_t low = c.low > kKeyOfMinusInf ? c.low - 1 : kKeyOfMinusInf;
    kept->least = least_threshold<false>(c.keys, nullptr, c.count, top_k - 1, low, c.top, s.search_keys, nullptr);
  }
  kept->least = top_mass(c, kept->least, temperature, top_p, s);
  if (then_temperature != 1.0f || then_top_k > 0 || then_top_p < 1.0f) {
    kept->least = second_chain(*kept, temperature * then_temperature, then_top_k, then_top_p, size, s);
  }
  kept->floor = static_cast<int64_t>(std::ceil(static_cast<double>(min_p) * kWeightScale));
  return Outcome::several;
}

// The first candidate with the largest logit, by its position.
int64_t best_of(const Candidates& c) {
  int64_t i = 0;
  while (c.keys[i] != c.top) ++i;
  return c.positions == nullptr ? i : c.positions[i];
}

void write_weights(const Kept& kept, const int64_t* own, int64_t* weights) {
  const Candidates& c = kept.c;
  for (int64_t i = 0; i < c.count; ++i) {
    // padding and masked tokens weigh nothing
    if (own[i] == 0 || c.keys[i] < kept.least || own[i] < kept.floor) continue;
    weights[c.positions == nullptr ? i : c.positions[i]] = own[i];
  }
}

// The position of the draw, or -1. With `weights`, those instead.
template <typename T>
int64_t sample_row(const T* cond, const T* uncond, int64_t size, const SampleParameters& p, int64_t row, Workspace& s,
                   int64_t* weights) {
  Kept kept;
  const Outcome outcome = filter(cond, uncond, size, p, row, s, &kept);
  const Candidates& c = kept.c;
  const int64_t best = outcome == Outcome::best ? best_of(c) : -1;
  if (weights != nullptr) {
    std::fill(weights, weights + size, outcome == Outcome::none ? -1 : 0);
    if (outcome == Outcome::best) weights[best] = static_cast<int64_t>(kWeightScale);
    if (outcome == Outcome::several) write_weights(kept, s.weights, weights);
    return best;
  }
  if (outcome != Outcome::several) return best;
  const auto seed = static_cast<uint64_t>(at(p.seed, row)), step = static_cast<uint64_t>(at(p.step, row));
  if (p.noise == Noise::race) {
    return race(c.keys, c.positions, s.weights, c.count, kept.least, kept.floor, seed, step);
  }
  const int64_t i = draw(c.keys, s.weights, c.count, kept.least, kept.floor, philox(seed, step), s.blocks);
  return c.positions == nullptr ? i : c.positions[i];
}

// Writes ids or, where those are null, weights.
template <typename T>
bool sample(const T* cond, int64_t cond_stride, const T* uncond, int64_t uncond_stride, int64_t* ids, int64_t first,
            int64_t* weights, int64_t rows, int64_t size, const SampleParameters& p) {
  bool enough = true;
  parallel_for(rows, grain_of(kGrain, size), [&](int64_t begin, int64_t end) {
    Workspace s;
    if (!reserve(size, &s)) {
#pragma omp atomic write
      enough = false;
      return;
    }
    for (int64_t row = begin; row < end; ++row) {
      const T* u = uncond == nullptr ? nullptr : uncond + row * uncond_stride;
      int64_t* own = ids == nullptr ? weights + row * size : nullptr;
      const int64_t id = sample_row(cond + row * cond_stride, u, size, p, row, s, own);
      if (ids != nullptr) ids[row] = id < 0 ? -1 : first + id;
    }
  });
  return enough;
}

bool draw_or_weigh(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                   int64_t* ids, int64_t first, int64_t* weights, int64_t rows, int64_t size,
                   const SampleParameters& p) {
  bool enough = false;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    enough = sample(static_cast<const T*>(cond), cond_stride, static_cast<const T*>(uncond), uncond_stride, ids, first,
                    weights, rows, size, p);
  });
  return enough;
}

template <typename T, typename Out>
void mix_rows(const T* cond, int64_t cond_stride, const T* uncond, int64_t uncond_stride, Out* out, int64_t rows,
              int64_t size, const PerRow<float>& guidance) {
  parallel_for(rows, grain_of(kGrain, size), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float g = at(guidance, row);
      const T* c = g == 0.0f ? uncond + row * uncond_stride : cond + row * cond_stride;
      const T* u = g == 1.0f ? c : uncond + row * uncond_stride;
      Out* y = out + row * size;
      const bool one = g == 0.0f || g == 1.0f;  // mixed with itself, an infinity would become NaN
      int64_t i = 0;
      for (; i + kLanes <= size; i += kLanes) {
        const vf x = load(c + i), z = load(u + i);
        store(y + i, one ? x : fma(broadcast(g), x - z, z));
      }
      if (i < size) {
        const vf x = load_n(c + i, size - i), z = load_n(u + i, size - i);
        store_n(y + i, one ? x : fma(broadcast(g), x - z, z), size - i);
      }
    }
  });
}

}  // namespace

void cfg_mix(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
             DType out_dtype, void* out, int64_t rows, int64_t size, const PerRow<float>& guidance) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    with_dtype(out_dtype, [&](auto out_tag) {
      using Out = decltype(out_tag);
      mix_rows(static_cast<const T*>(cond), cond_stride, static_cast<const T*>(uncond), uncond_stride,
               static_cast<Out*>(out), rows, size, guidance);
    });
  });
}

bool cfg_sample(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                int64_t* ids, int64_t first, int64_t rows, int64_t size, const SampleParameters& parameters) {
  return rows == 0 || draw_or_weigh(dtype, cond, cond_stride, uncond, uncond_stride, ids, first, nullptr, rows, size,
                                    parameters);
}

bool cfg_weights(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                 int64_t* weights, int64_t rows, int64_t size, const SampleParameters& parameters) {
  return rows == 0 || draw_or_weigh(dtype, cond, cond_stride, uncond, uncond_stride, nullptr, 0, weights, rows, size,
                                    parameters);
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
