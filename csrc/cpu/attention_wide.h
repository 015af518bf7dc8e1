// Attention of a few queries where heads are small: several heads of a key lie side by side and are read together, in the
// order of memory, for one query of each after the other. What is computed, and in which order, is what attention_chunk.h
// computes for each head.
#pragma once

#include "attention_chunk.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

// vectors of a key that are read at once, of all its heads together: as many as registers hold sums for
constexpr int kSpan = 16;
// Rows ahead of their use at which keys and values are asked into the second of the caches. The hardware does so alone where
// rows follow each other, but starts anew with every page.
constexpr int64_t kRowsAhead = 24;
// with more queries it pays to take them together, a head at a time
constexpr int64_t kFewQueries = 8;

// V vectors a head, kSpan / V heads.
template <int V>
struct Wide {
  static constexpr int kHeads = kSpan / V;

  // Row i of those that are read now, or of the next ones, is asked from memory.
  static void ask(const float* const* rows, const float* const* next, int64_t i, int64_t count) {
    if (i >= count) {
      if (next == nullptr || i >= 2 * count) return;
      rows = next;
      i -= count;
    }
#pragma GCC unroll 16
    for (int v = 0; v < kSpan; ++v) __builtin_prefetch(rows[i] + v * kLanes, 0, 2);
  }

  // scores[h * kChunk + j] = queries[h] . keys[j][h]; the queries are packed. The first values are asked from memory.
  static void dot(const float* queries, const float* const* keys, const float* const* values, int64_t count,
                  float* scores) {
    for (int64_t j = 0; j < count; j += kLanes) {
      const float* rows[kLanes];
      for (int k = 0; k < kLanes; ++k) {
        ask(keys, values, j + k + kRowsAhead, count);
        rows[k] = keys[j + k < count ? j + k : count - 1];
      }
      for (int h = 0; h < kHeads; ++h) {
        vf query[V], products[kLanes];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) query[v] = load(queries + (h * V + v) * kLanes);
#pragma GCC unroll 16
        for (int k = 0; k < kLanes; ++k) {
          products[k] = vf{};
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) products[k] = fma(query[v], load(rows[k] + (h * V + v) * kLanes), products[k]);
        }
        store(scores + h * kChunk + j, sum_each(products));
      }
    }
  }

  // sums[h] = sum over j of weights[h * kChunk + j] * values[j][h]; the sums are packed.
  static void mix(const float* weights, const float* const* values, int64_t count, float* sums) {
    vf acc[kSpan] = {};
    for (int64_t j = 0; j < count; ++j) {
      const float* value = values[j];
      ask(values, nullptr, j + kRowsAhead, count);
#pragma GCC unroll 16
      for (int h = 0; h < kHeads; ++h) {
        const vf weight = broadcast(weights[h * kChunk + j]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          acc[h * V + v] = fma(weight, load(value + (h * V + v) * kLanes), acc[h * V + v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSpan; ++i) store(sums + i * kLanes, acc[i]);
  }
};

// f(std::integral_constant<int, V>) where V is `vectors` and divides kSpan; else false.
template <typename F>
inline bool with_vectors(int64_t vectors, F&& f) {
  switch (vectors) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    case 8:
      return f(std::integral_constant<int, 8>{});
    default:
      return false;
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
