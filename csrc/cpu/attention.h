// Attention of a block of queries over a head of the paged cache, a chunk of keys at a time.
#pragma once

#include "attention_pairs.h"
#include "attention_wide.h"
#include "paged_problem.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

// T is what the cache holds; `kPairs`: it and the queries are bfloat16, and so are the products.
template <typename T, bool kPairs = false>
class Attention {
 public:
  explicit Attention(const Problem& problem)
      : p_(problem), group_(p_.group()), width_(p_.width()), stride_(p_.cache.heads * p_.cache.size) {}

  // Heads from `head` to `end` over the chunk from `start` on, each into its own of `to`, `apart` floats from one to the
  // next; queries stand in each head's scratch.
  void chunk_of_heads(const Block& block, int64_t head, int64_t end, int64_t start, const Scratch& s, Partial to,
                      int64_t apart) const {
    if (chunk_side_by_side(block, head, end, start, s, to, apart)) return;
    for (int64_t h = head; h < end; ++h) {
      chunk(block, h, start, s.of_head(h - head, p_), to.moved((h - head) * apart), h == head ? end - head : 0);
    }
  }

  void load_queries(const Block& block, int64_t head, float* queries) const {
#if defined(__AVX512BF16__)
    if constexpr (kPairs) return load_rounded(block, head, reinterpret_cast<bf16*>(queries));
#endif
    with_dtype(p_.dtype, [&](auto tag) {
      using Q = decltype(tag);
      for (int64_t i = 0; i < block.count * group_; ++i) {
        const Q* from = static_cast<const Q*>(p_.q.data) + (block.first + i / group_) * p_.q.token_stride +
                        (head * group_ + i % group_) * p_.q.head_stride;
        for_each_vector(p_.cache.size, [&](int64_t d, int64_t n) {
          store(queries + i * width_ + d, load_some(from + d, n) * p_.scale);
        });
      }
    });
  }

  // The block's keys from `start` on, a chunk of them at most, into `to`; queries that see none of them are left out. The
  // keys and values of `ahead` heads, this one first, are asked from memory.
  void chunk(const Block& block, int64_t head, int64_t start, const Scratch& s, const Partial& to,
             int64_t ahead = 1) const {
    const int64_t count = least(kChunk, block.longest - start), queries = block.count * group_;
    const T *keys[kChunk], *values[kChunk];
    find(block.row, head, start, count, keys, values);
#if defined(__AVX512BF16__)
    if constexpr (kPairs) return chunk_of_pairs(block, start, count, keys, values, ahead, s, to);
#endif
    for_each_tile_of(keys, count, ahead, s.tile, [&](const float* const* rows, int64_t first, int64_t last) {
      dot_all(s, rows, first, last, queries);
    });
    for (int64_t i = 0; i < queries; ++i) {
      if (const int64_t seen = seen_by(block, i, start, count); seen > 0) {
        weigh(s.scores + i * kChunk, seen, to.largest[i], to.weight[i]);
      }
    }
    std::memset(to.values, 0, static_cast<size_t>(queries * width_) * sizeof(float));
    for_each_tile_of(values, count, ahead, s.tile, [&](const float* const* rows, int64_t first, int64_t last) {
      mix_all(block, start, count, s, rows, first, last, to);
    });
  }

  void merge_chunk(const Block& block, int64_t start, Partial& total, const Partial& part) const {
    for (int64_t i = 0; i < block.count * group_; ++i) {
      if (p_.length(block.first + i / group_) > start) merge(total, part, i, width_);
    }
  }

  void finish(const Block& block, int64_t head, const Partial& total) const {
#if defined(__AVX512BF16__)
    if (kPairs && block.longest > 0) in_order(total.values, block.count * group_ * width_);
#endif
    with_dtype(p_.dtype, [&](auto tag) {
      using Q = decltype(tag);
      for (int64_t i = 0; i < block.count * group_; ++i) {
        const int64_t token = block.first + i / group_;
        Q* to = static_cast<Q*>(p_.out) + (token * p_.q.count + head * group_ + i % group_) * p_.cache.size;
        const bool empty = p_.length(token) == 0;
        for_each_vector(p_.cache.size, [&](int64_t d, int64_t n) {
          store_some(to + d, empty ? vf{} : load(total.values + i * width_ + d) / total.weight[i], n);
        });
      }
    });
  }

  // Heads from `head` to `end`, chunk by chunk, so that memory is read in stretches of several heads.
  void whole(const Block& block, int64_t head, int64_t end, const Scratch& s) const {
    const int64_t queries = p_.block_queries(), apart = Scratch::floats_of_head(p_);
    const Partial total = Partial::at(s.total, queries, width_), part = Partial::at(s.part, queries, width_);
    for (int64_t h = head; h < end; ++h) load_queries(block, h, s.of_head(h - head, p_).queries);
    for (int64_t start = 0; start < block.longest; start += kChunk) {
      chunk_of_heads(block, head, end, start, s, start == 0 ? total : part, start == 0 ? apart : Scratch::floats_of_part(p_));
      for (int64_t h = 0; start > 0 && h < end - head; ++h) {
        Partial into = total.moved(h * apart);
        merge_chunk(block, start, into, part.moved(h * Scratch::floats_of_part(p_)));
      }
    }
    for (int64_t h = head; h < end; ++h) finish(block, h, total.moved((h - head) * apart));
  }

 private:
  // The same for heads that fill whole spans, one query of each at a time, as floats; says whether it could.
  bool chunk_side_by_side(const Block& block, int64_t head, int64_t end, int64_t start, const Scratch& s, Partial to,
                          int64_t apart) const {
    if constexpr (std::is_same_v<T, float> && kLanes == kSpan) {
      if (group_ != 1 || block.count > kFewQueries || p_.cache.size % kLanes != 0) return false;
      return with_vectors(p_.cache.size / kLanes, [&](auto vectors) {
        constexpr int kHeads = Wide<vectors>::kHeads;
        if ((end - head) % kHeads != 0) return false;
        for (int64_t h = head; h < end; h += kHeads) {
          span<vectors>(block, h, start, s, h - head, to.moved((h - head) * apart), apart);
        }
        return true;
      });
    }
    return false;
  }

  template <int V>
  void span(const Block& block, int64_t head, int64_t start, const Scratch& s, int64_t number, Partial to,
            int64_t apart) const {
    constexpr int kHeads = Wide<V>::kHeads;
    const int64_t count = least(kChunk, block.longest - start);
    const T *keys[kChunk], *values[kChunk];
    find(block.row, head, start, count, keys, values);
    alignas(64) float packed[kSpan * kLanes], scores[kHeads * kChunk];
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t seen = seen_by(block, i, start, count);
      if (seen <= 0) continue;
      for (int h = 0; h < kHeads; ++h) {
        std::memcpy(packed + h * V * kLanes, s.of_head(number + h, p_).queries + i * width_, V * kLanes * sizeof(float));
      }
      Wide<V>::dot(packed, keys, values, seen, scores);
      for (int h = 0; h < kHeads; ++h) {
        const Partial own = to.moved(h * apart);
        weigh(scores + h * kChunk, seen, own.largest[i], own.weight[i]);
      }
      Wide<V>::mix(scores, values, seen, packed);
      for (int h = 0; h < kHeads; ++h) {
        float* own = to.moved(h * apart).values + i * width_;
        for (int64_t d = 0; d < width_; d += kLanes) {
          store(own + d, d < V * kLanes ? load(packed + h * V * kLanes + d) : vf{});
        }
      }
    }
  }

  int64_t seen_by(const Block& block, int64_t query, int64_t start, int64_t count) const {
    return least(count, most(0, p_.length(block.first + query / group_) - start));
  }

  void find(int64_t row, int64_t head, int64_t start, int64_t count, const T** keys, const T** values) const {
    const PagedCache& c = p_.cache;
    const int32_t* table = c.table + row * c.table_stride;
    int64_t index = start / c.page_size, slot = start % c.page_size;
    for (int64_t j = 0; j < count; ++index, slot = 0) {
      int64_t at = (table[index] * c.page_size + slot) * stride_ + head * c.size;
      for (; slot < c.page_size && j < count; ++slot, ++j, at += stride_) {
        keys[j] = static_cast<const T*>(c.k) + at;
        values[j] = static_cast<const T*>(c.v) + at;
      }
    }
  }

  // Calls f(rows, first, last) with rows[0 .. last - first) the elements first to last of `from`, as floats.
  template <typename F>
  void for_each_tile_of(const T* const* from, int64_t count, int64_t ahead, float* tile, F&& f) const {
    if constexpr (std::is_same_v<T, float>) {
      if (stride_ * static_cast<int64_t>(sizeof(T)) < kFarApart) return f(from, 0, count);
    }
    const float* rows[kTile];
    for (int64_t i = 0; i < kTile; ++i) rows[i] = tile + i * width_;
    for (int64_t first = 0; first < count; first += kTile) {
      const int64_t last = least(count, first + kTile);
      for (int64_t j = first; j < last; ++j) {
        float* to = tile + (j - first) * width_;
        if (j + kAhead < count) prefetch(from[j + kAhead], ahead * p_.cache.size);
        for_each_vector(p_.cache.size, [&](int64_t d, int64_t n) { store(to + d, load_some(from[j] + d, n)); });
      }
      f(rows, first, last);
    }
  }

  // keys[0] is key number `first` of the chunk
  void dot_all(const Scratch& s, const float* const* keys, int64_t first, int64_t last, int64_t queries) const {
    for_each_tile(queries, [&](int64_t i, auto tile) {
      dot<tile>(s.queries + i * width_, width_, keys, last - first, p_.cache.size,
                s.scores + i * kChunk + first);
    });
  }

  void mix_all(const Block& block, int64_t start, int64_t count, const Scratch& s, const float* const* values,
               int64_t first, int64_t last, const Partial& to) const {
    for_each_tile(block.count * group_, [&](int64_t i, auto tile) {
      int64_t common = last;
      for (int64_t g = i; g < i + tile; ++g) common = least(common, seen_by(block, g, start, count));
      common = most(common, first);
      const float* weights = s.scores + i * kChunk + first;
      float* sums = to.values + i * width_;
      mix<tile>(weights, values, 0, common - first, p_.cache.size, sums, width_);
      for (int64_t g = 0; g < tile; ++g) {
        const int64_t end = least(last, seen_by(block, i + g, start, count));
        if (end > common) {
          mix<1>(weights + g * kChunk, values, common - first, end - first, p_.cache.size, sums + g * width_,
                 width_);
        }
      }
    });
  }

#if defined(__AVX512BF16__)
  void load_rounded(const Block& block, int64_t head, bf16* queries) const {
    std::memset(queries, 0, static_cast<size_t>(block.count * group_ * width_) * sizeof(bf16));
    for (int64_t i = 0; i < block.count * group_; ++i) {
      const bf16* from = static_cast<const bf16*>(p_.q.data) + (block.first + i / group_) * p_.q.token_stride +
                         (head * group_ + i % group_) * p_.q.head_stride;
      std::memcpy(queries + i * width_, from, static_cast<size_t>(p_.cache.size) * sizeof(bf16));
    }
  }

  void chunk_of_pairs(const Block& block, int64_t start, int64_t count, const bf16* const* keys,
                      const bf16* const* values, int64_t ahead, const Scratch& s, const Partial& to) const {
    const int64_t queries = block.count * group_, size = p_.cache.size;
    for_each_wide_tile(queries, [&](int64_t i, auto tile) {
      dot_pairs<tile>(reinterpret_cast<const bf16*>(s.queries) + i * width_, width_, keys, values, count, size,
                      i == 0 ? ahead * size : 0, p_.scale, s.scores + i * kChunk);
    });
    std::memset(to.values, 0, static_cast<size_t>(queries * width_) * sizeof(float));
    for (int64_t i = 0; i < queries; ++i) {
      if (const int64_t seen = seen_by(block, i, start, count); seen > 0) {
        weigh(s.scores + i * kChunk, seen, to.largest[i], to.weight[i]);
        round_weights(s.scores + i * kChunk, seen, to.weight[i]);
      }
    }
    for_each_wide_tile(queries, [&](int64_t i, auto tile) {
      int64_t common = count, furthest = 0;
      for (int64_t g = i; g < i + tile; ++g) {
        common = least(common, seen_by(block, g, start, count));
        furthest = most(furthest, seen_by(block, g, start, count));
      }
      if (common < furthest) common -= common % 2;  // a pair is not split between the two calls
      const float* weights = s.scores + i * kChunk;
      float* sums = to.values + i * width_;
      mix_pairs<tile>(weights, values, 0, common, size, sums, width_);
      for (int64_t g = 0; g < tile; ++g) {
        if (const int64_t end = seen_by(block, i + g, start, count); end > common) {
          mix_pairs<1>(weights + g * kChunk, values, common, end, size, sums + g * width_, width_);
        }
      }
    });
  }
#endif

  const Problem& p_;
  const int64_t group_;
  const int64_t width_;
  const int64_t stride_;
};

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
