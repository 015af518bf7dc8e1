// Attention of a few queries over a chunk of at most kChunk keys, and putting the results of chunks together.
//
// The online softmax of Milakov and Gimelshein (2018, arXiv 1805.02867), chunk by chunk. What is computed for a query, and
// in which order, depends on its keys alone: not on the queries beside it, nor on who computes the other chunks.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "loops.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

constexpr int64_t kChunk = 128;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Each query's largest score, sum of weights, and weighted sum of values, `width` floats apart.
struct Partial {
  float* largest;
  float* weight;
  float* values;

  static int64_t floats(int64_t queries, int64_t width) { return queries * (width + 2); }
  Partial moved(int64_t floats) const { return {largest + floats, weight + floats, values + floats}; }
  static Partial at(float* memory, int64_t queries, int64_t width) {
    return {memory + queries * width, memory + queries * (width + 1), memory};
  }
};

// Rows ahead of their use at which keys and values are asked from memory: a head's rows lie too far apart for the
// hardware to see the pattern, and more of them at once may not fit into a set of the cache.
constexpr int64_t kAhead = 8;

template <typename T>
inline void prefetch(const T* p, int64_t count) {
  const char* bytes = reinterpret_cast<const char*>(p);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

// scores[g * kChunk + j] = queries[g] . keys[j], for Q queries `width` floats apart, zero from `size` on.
template <int Q>
void dot(const float* queries, int64_t width, const float* const* keys, int64_t count, int64_t size, float* scores) {
  constexpr int kKeys = kLanes / Q;
  for (int64_t j = 0; j < count; j += kKeys) {
    const float* rows[kKeys];
    for (int i = 0; i < kKeys; ++i) rows[i] = keys[j + i < count ? j + i : count - 1];
    vf products[kLanes] = {};
    for_each_vector(size, [&](int64_t d, int64_t n) {
      vf query[Q];
      for (int g = 0; g < Q; ++g) query[g] = load(queries + g * width + d);
      for (int i = 0; i < kKeys; ++i) {
        const vf key = load_some(rows[i] + d, n);
        for (int g = 0; g < Q; ++g) products[g * kKeys + i] = fma(query[g], key, products[g * kKeys + i]);
      }
    });
    float sums[kLanes];
    store(sums, sum_each(products));
    for (int g = 0; g < Q; ++g) std::memcpy(scores + g * kChunk + j, sums + g * kKeys, kKeys * sizeof(float));
  }
}

// Turns a query's `count` scores into weights exp(score - largest).
inline void weigh(float* scores, int64_t count, float& largest, float& weight) {
  for (int64_t j = count; j < padded(count); ++j) scores[j] = kMinusInfinity;
  vf top = broadcast(kMinusInfinity);
  for (int64_t j = 0; j < count; j += kLanes) top = max(top, load(scores + j));
  largest = max_lane(top);
  const float base = largest == kMinusInfinity ? 0.0f : largest;
  vf total = {};
  for (int64_t j = 0; j < count; j += kLanes) {
    const vf e = exp(load(scores + j) - base);
    store(scores + j, e);
    total += e;
  }
  weight = sum(total);
}

// sums[g] += weights[g * kChunk + j] * values[j] for j in [first, last), V vectors of each from element d on.
template <int Q, int V>
inline void mix_vectors(const float* weights, const float* const* values, int64_t first, int64_t last, int64_t d, int64_t n,
                        float* sums, int64_t width) {
  vf acc[Q][V];
  for (int g = 0; g < Q; ++g) {
    for (int i = 0; i < V; ++i) acc[g][i] = load(sums + g * width + d + i * kLanes);
  }
  for (int64_t j = first; j < last; ++j) {
    for (int i = 0; i < V; ++i) {
      const vf value = load_some(values[j] + d + i * kLanes, n);
      for (int g = 0; g < Q; ++g) acc[g][i] = fma(broadcast(weights[g * kChunk + j]), value, acc[g][i]);
    }
  }
  for (int g = 0; g < Q; ++g) {
    for (int i = 0; i < V; ++i) store(sums + g * width + d + i * kLanes, acc[g][i]);
  }
}

template <int Q>
void mix(const float* weights, const float* const* values, int64_t first, int64_t last, int64_t size, float* sums,
         int64_t width) {
  // as many vectors at once as registers hold
  constexpr int kVectors = Q < 4 || kLanes == 16 ? 4 : 2;
  int64_t d = 0;
  for (; d + kVectors * kLanes <= size; d += kVectors * kLanes) {
    mix_vectors<Q, kVectors>(weights, values, first, last, d, kLanes, sums, width);
  }
  for (; d + 2 * kLanes <= size; d += 2 * kLanes) {
    mix_vectors<Q, 2>(weights, values, first, last, d, kLanes, sums, width);
  }
  for (; d + kLanes <= size; d += kLanes) mix_vectors<Q, 1>(weights, values, first, last, d, kLanes, sums, width);
  if (d < size) mix_vectors<Q, 1>(weights, values, first, last, d, size - d, sums, width);
}

// Calls f(first, Q) with Q an integral constant of 4, 2 or 1 for all `queries`, as few times as can be.
template <typename F>
inline void for_each_tile(int64_t queries, F&& f) {
  int64_t g = 0;
  for (; g + 4 <= queries; g += 4) f(g, std::integral_constant<int, 4>{});
  for (; g + 2 <= queries; g += 2) f(g, std::integral_constant<int, 2>{});
  for (; g < queries; ++g) f(g, std::integral_constant<int, 1>{});
}

// Adds the results of a later chunk to one query's.
inline void merge(Partial& into, const Partial& from, int64_t g, int64_t width) {
  const float largest = into.largest[g] > from.largest[g] ? into.largest[g] : from.largest[g];
  vf differences = {};
  differences[0] = into.largest[g] - largest;
  differences[1] = from.largest[g] - largest;
  const vf factors = exp(differences);
  into.largest[g] = largest;
  into.weight[g] = into.weight[g] * factors[0] + from.weight[g] * factors[1];
  for (int64_t d = 0; d < width; d += kLanes) {
    float* to = into.values + g * width + d;
    store(to, load(to) * factors[0] + load(from.values + g * width + d) * factors[1]);
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
