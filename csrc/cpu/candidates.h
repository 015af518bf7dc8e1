// Two branches of logits mixed into integer keys, and of those the candidates of a draw. The rule is in
// illume_fast/ops/cfg_sample.py.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "keys.h"
#include "scratch.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {  // of one file, which inlines it whole

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 256;  // weights summed together when the draw is looked up

// What one row needs, for `size` logits.
struct Workspace {
  int32_t *keys, *candidates, *positions, *search_keys;
  int64_t *weights, *search_weights, *blocks;
};

inline bool reserve(int64_t size, Workspace* w) {
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

  int32_t *const kept = s.candidates, *const positions = s.positions;  // stores cannot change these
  int64_t count = 0, i = 0;
  const auto keep = [&](vi key, int64_t at) {
    top = key > top ? key : top;
    count += append_from(key, low, static_cast<int32_t>(at), kept + count, positions + count);
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

}  // namespace
}  // namespace illume_fast::ILLUME_FAST_ISA_NS
