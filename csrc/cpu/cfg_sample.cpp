#include "illume_fast/cfg_sample.h"

#include <cfloat>
#include <cmath>
#include <limits>

#include "illume_fast/philox.h"
#include "keys.h"
#include "parallel.h"
#include "race.h"
#include "scratch.h"
#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kWeightScale = 0x1p40;
constexpr int64_t kBlock = 256;  // weights summed together when the draw is looked up

// logits a thread should have to be worth waking
constexpr int64_t kGrain = 16384;

typedef float vfh __attribute__((vector_size(kHalf * 4)));

template <typename T>
inline T at(const PerRow<T>& parameter, int64_t row) {
  return parameter.rows != nullptr ? parameter.rows[row] : parameter.value;
}

// What one row needs, for `size` logits.
struct Workspace {
  int32_t *keys, *candidates, *positions, *search_keys;
  int64_t *weights, *search_weights, *blocks;
};

bool reserve(int64_t size, Workspace* w) {
  static thread_local Scratch scratch;
  const int64_t n = padded(size) + 2 * kLanes, block_count = n / kBlock + 1;
  w->weights = static_cast<int64_t*>(scratch.reserve(n * (2 * 8 + 4 * 4) + block_count * 8));
  if (w->weights == nullptr) return false;
  w->search_weights = w->weights + n;
  w->blocks = w->search_weights + n;
  w->keys = reinterpret_cast<int32_t*>(w->blocks + block_count);
  w->candidates = w->keys + n;
  w->positions = w->candidates + n;
  w->search_keys = w->positions + n;
  return true;
}

enum class Branches { one, two };

// Mixed logits as keys. kCareful knows of inf and NaN: the key is then that of +inf if the row is bad. Without it `plain`
// tells whether there were none.
template <Branches branches, bool kCareful>
class Mixer {
 public:
  explicit Mixer(float guidance) : g_(broadcast(guidance)) {}

  template <typename T>
  vi at(const T* cond, const T* uncond, int64_t i) {
    vf u{};
    if constexpr (branches == Branches::two) u = load(uncond + i);
    return key(load(cond + i), u);
  }

  // the same for the last n < kLanes logits; behind them stand keys of -inf
  template <typename T>
  vi at_end(const T* cond, const T* uncond, int64_t i, int64_t n) {
    vf u{};
    if constexpr (branches == Branches::two) u = load_n(uncond + i, n);
    vi x = key(load_n(cond + i, n), u);
    for (int64_t lane = n; lane < kLanes; ++lane) x[lane] = kKeyOfMinusInf;
    return x;
  }

  bool plain() const {
    const vi zero = probe_ == vf{};
    int32_t all = -1;
    for (int lane = 0; lane < kLanes; ++lane) all &= zero[lane];
    return all != 0;
  }

 private:
  vi key(vf c, vf u) {
    const vf inf = broadcast(kInf);
    vf z = c;
    if constexpr (branches == Branches::two) z = fma(g_, c - u, u);
    if constexpr (kCareful) {
      vi broken = ~(c < inf);
      if constexpr (branches == Branches::two) {
        z = (c == -inf) | (u == -inf) ? -inf : z;
        broken |= ~(u < inf);
      }
      z = broken ? inf : z;
    } else {
      probe_ = fma(c, vf{}, probe_);  // 0, or NaN for ever
      if constexpr (branches == Branches::two) probe_ = fma(u, vf{}, probe_);
    }
    return to_key(z + 0.0f);
  }

  vf g_;
  vf probe_{};
};

// All keys and the largest of them: that of +inf or more if the row is bad.
template <Branches branches, bool kCareful, typename T>
int32_t mix_all(const T* cond, const T* uncond, float guidance, int64_t size, int32_t* keys, bool* plain) {
  Mixer<branches, kCareful> mixer(guidance);
  vi top = broadcast_int(kKeyOfMinusInf);
  const auto keep = [&](vi key, int64_t i) {
    std::memcpy(keys + i, &key, sizeof key);
    top = key > top ? key : top;
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) keep(mixer.at(cond, uncond, i), i);
  if (i < size) keep(mixer.at_end(cond, uncond, i, size - i), i);
  *plain = mixer.plain();
  return largest(top);
}

// The tokens that may survive, in the order of their ids, and the largest key of the row.
struct Candidates {
  const int32_t* keys;
  const int32_t* positions;  // null: each token is its own position
  int64_t count;             // a multiple of kLanes, padding included
  int32_t low;               // all of them are at least this
  int32_t top;
};

template <Branches branches, typename T>
Candidates all_candidates(const T* cond, const T* uncond, float guidance, int64_t size, Workspace& s) {
  bool plain;
  int32_t top = mix_all<branches, false>(cond, uncond, guidance, size, s.keys, &plain);
  if (!plain) top = mix_all<branches, true>(cond, uncond, guidance, size, s.keys, &plain);
  return {s.keys, nullptr, padded(size), kKeyOfMinusInf, top};
}

// A little more than the k largest of a plain row, in one pass over it: those above a threshold taken from a sample.
// False if the sample is no guide, or a bad one.
template <Branches branches, typename T>
bool preselect(const T* cond, const T* uncond, float guidance, int64_t size, int64_t k, Workspace& s, Candidates* c) {
  constexpr int64_t kSample = 64;  // vectors
  const int64_t vectors = size / kLanes;
  if (vectors < 4 * kSample) return false;
  const double expected = static_cast<double>(k) * (kSample * kLanes) / static_cast<double>(size);
  const int64_t rank = static_cast<int64_t>(expected + 3.0 * std::sqrt(expected) + 4.0);
  if (rank > kSample * kLanes / 2) return false;

  Mixer<branches, false> mixer(guidance);
  vi top = broadcast_int(kKeyOfMinusInf);
  for (int64_t i = 0; i < kSample; ++i) {
    const vi key = mixer.at(cond, uncond, i * vectors / kSample * kLanes);
    std::memcpy(s.search_keys + i * kLanes, &key, sizeof key);
    top = key > top ? key : top;
  }
  if (!mixer.plain()) return false;
  const int32_t low = least_threshold<false>(s.search_keys, nullptr, kSample * kLanes, rank, kKeyOfMinusInf,
                                             largest(top), s.search_keys, nullptr);
  if (low == kKeyOfMinusInf) return false;

  int64_t count = 0, i = 0;
  const auto keep = [&](vi key, int64_t at) {
    top = key > top ? key : top;
    count += append_from(key, low, static_cast<int32_t>(at), s.candidates + count, s.positions + count);
  };
  for (; i + kLanes <= size; i += kLanes) keep(mixer.at(cond, uncond, i), i);
  if (i < size) keep(mixer.at_end(cond, uncond, i, size - i), i);
  if (!mixer.plain() || count < k) return false;
  const vi padding = broadcast_int(kKeyOfMinusInf), nowhere{};
  std::memcpy(s.candidates + count, &padding, sizeof padding);
  std::memcpy(s.positions + count, &nowhere, sizeof nowhere);
  *c = {s.candidates, s.positions, padded(count), low, largest(top)};
  return true;
}

template <Branches branches, typename T>
Candidates candidates(const T* cond, const T* uncond, float guidance, int64_t size, int64_t k, Workspace& s) {
  Candidates c;
  if (k > 0 && k < size && preselect<branches>(cond, uncond, guidance, size, k, s, &c)) return c;
  return all_candidates<branches>(cond, uncond, guidance, size, s);
}

// k is 0 where all are wanted
template <typename T>
Candidates candidates(const T* cond, const T* uncond, float guidance, int64_t size, int64_t k, Workspace& s) {
  if (uncond != nullptr && guidance != 1.0f && guidance != 0.0f) {
    return candidates<Branches::two>(cond, uncond, guidance, size, k, s);
  }
  const T* branch = uncond == nullptr || guidance == 1.0f ? cond : uncond;
  return candidates<Branches::one>(branch, branch, 0.0f, size, k, s);
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

template <typename T>
int64_t sample_row(const T* cond, const T* uncond, int64_t size, const SampleParameters& p, int64_t row, Workspace& s) {
  const float guidance = at(p.guidance, row), temperature = at(p.temperature, row);
  const float top_p = at(p.top_p, row), min_p = at(p.min_p, row);
  const int64_t top_k = at(p.top_k, row);
  const bool valid = std::isfinite(guidance) && temperature >= 0.0f && temperature < kInf && top_k >= 0 &&
                     top_p >= 0.0f && top_p <= 1.0f && min_p >= 0.0f && min_p <= 1.0f;
  if (!valid || size == 0) return -1;
  const Candidates c = candidates(cond, uncond, guidance, size, temperature == 0.0f ? 1 : top_k, s);
  const int32_t top = c.top;
  if (top >= kKeyOfInf || top == kKeyOfMinusInf) return -1;
  if (temperature == 0.0f) {
    int64_t i = 0;
    while (c.keys[i] != top) ++i;
    return c.positions == nullptr ? i : c.positions[i];
  }

  int32_t least = kKeyOfMinusInf;
  if (top_k > 0 && top_k < size) {
    // one below the keys there are, so that the least of them can be the answer
    const int32_t low = c.low > kKeyOfMinusInf ? c.low - 1 : kKeyOfMinusInf;
    least = least_threshold<false>(c.keys, nullptr, c.count, top_k - 1, low, top, s.search_keys, nullptr);
  }
  const vf best = from_key(broadcast_int(top));
  const int64_t total = weigh(c.keys, c.count, least, best[0], temperature, s.weights);
  if (top_p < 1.0f) {
    const int64_t limit = static_cast<int64_t>(static_cast<double>(top_p) * static_cast<double>(total));
    least = least_threshold<true>(c.keys, s.weights, c.count, limit, least, top, s.search_keys, s.search_weights);
  }
  const int64_t floor = static_cast<int64_t>(std::ceil(static_cast<double>(min_p) * kWeightScale));
  const auto seed = static_cast<uint64_t>(at(p.seed, row)), step = static_cast<uint64_t>(at(p.step, row));
  if (p.noise == Noise::race) return race(c.keys, c.positions, s.weights, c.count, least, floor, seed, step);
  const uint64_t random = philox(seed, step);
  const int64_t i = draw(c.keys, s.weights, c.count, least, floor, random, s.blocks);
  return c.positions == nullptr ? i : c.positions[i];
}

template <typename T>
bool sample(const T* cond, int64_t cond_stride, const T* uncond, int64_t uncond_stride, int64_t* ids, int64_t first,
            int64_t rows, int64_t size, const SampleParameters& p) {
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
      const int64_t id = sample_row(cond + row * cond_stride, u, size, p, row, s);
      ids[row] = id < 0 ? -1 : first + id;
    }
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
  bool enough = false;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    enough = sample(static_cast<const T*>(cond), cond_stride, static_cast<const T*>(uncond), uncond_stride, ids, first,
                    rows, size, parameters);
  });
  return enough;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
