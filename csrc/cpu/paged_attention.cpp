#include "illume_fast/paged_attention.h"

#include <omp.h>

#include <vector>

#include "paged_problem.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// multiply-adds that a thread should have to be worth waking
constexpr int64_t kGrain = 1 << 19;
// items a thread should have so that unequal ones even out; with fewer, items are split into chunks
constexpr int64_t kItems = 3;

// T is what the cache holds.
template <typename T>
class Attention {
 public:
  explicit Attention(const Problem& problem)
      : p_(problem), group_(p_.group()), width_(p_.width()), stride_(p_.cache.heads * p_.cache.size) {}

  void load_queries(const Block& block, int64_t head, float* queries) const {
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

  // The block's keys from `start` on, a chunk of them at most, into `to`; queries that see none of them are left out.
  void chunk(const Block& block, int64_t head, int64_t start, const Scratch& s, const Partial& to) const {
    const int64_t count = least(kChunk, block.longest - start), queries = block.count * group_;
    const T *keys[kChunk], *values[kChunk];
    find(block.row, head, start, count, keys, values);
    for_each_tile_of(keys, count, s.tile, [&](const float* const* rows, int64_t first, int64_t last) {
      dot_all(s, rows, first, last, queries);
    });
    for (int64_t i = 0; i < queries; ++i) {
      if (const int64_t seen = seen_by(block, i, start, count); seen > 0) {
        weigh(s.scores + i * kChunk, seen, to.largest[i], to.weight[i]);
      }
    }
    std::memset(to.values, 0, static_cast<size_t>(queries * width_) * sizeof(float));
    for_each_tile_of(values, count, s.tile, [&](const float* const* rows, int64_t first, int64_t last) {
      mix_all(block, start, count, s, rows, first, last, to);
    });
  }

  void merge_chunk(const Block& block, int64_t start, Partial& total, const Partial& part) const {
    for (int64_t i = 0; i < block.count * group_; ++i) {
      if (p_.length(block.first + i / group_) > start) merge(total, part, i, width_);
    }
  }

  void finish(const Block& block, int64_t head, const Partial& total) const {
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

  void whole(const Block& block, int64_t head, const Scratch& s) const {
    Partial total = Partial::at(s.total, p_.block_queries(), width_);
    const Partial part = Partial::at(s.part, p_.block_queries(), width_);
    load_queries(block, head, s.queries);
    for (int64_t start = 0; start < block.longest; start += kChunk) {
      chunk(block, head, start, s, start == 0 ? total : part);
      if (start > 0) merge_chunk(block, start, total, part);
    }
    finish(block, head, total);
  }

 private:
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
  void for_each_tile_of(const T* const* from, int64_t count, float* tile, F&& f) const {
    if constexpr (std::is_same_v<T, float>) {
      if (stride_ * static_cast<int64_t>(sizeof(T)) < kFarApart) return f(from, 0, count);
    }
    const float* rows[kTile];
    for (int64_t i = 0; i < kTile; ++i) rows[i] = tile + i * width_;
    for (int64_t first = 0; first < count; first += kTile) {
      const int64_t last = least(count, first + kTile);
      for (int64_t j = first; j < last; ++j) {
        float* to = tile + (j - first) * width_;
        if (j + kAhead < count) prefetch(from[j + kAhead], p_.cache.size);
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

  const Problem& p_;
  const int64_t group_;
  const int64_t width_;
  const int64_t stride_;
};

// Items, a block and a head each, are handed out one by one; what each thread gets does not matter.
template <typename T>
void run_items(const Problem& p, const std::vector<Block>& blocks, int threads) {
  const Attention<T> attention(p);
  const int64_t heads = p.cache.heads, items = static_cast<int64_t>(blocks.size()) * heads, size = Scratch::floats(p);
  Memory memory(size * threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < items; ++i) {
    const Scratch s = Scratch::at(memory.at(size * omp_get_thread_num()), p);
    attention.whole(blocks[static_cast<size_t>(i / heads)], i % heads, s);
  }
}

// Few long items: all their chunks at once, then each item's chunks put together in order, as `whole` does.
template <typename T>
void run_chunks(const Problem& p, const std::vector<Block>& blocks, int threads) {
  const Attention<T> attention(p);
  const int64_t heads = p.cache.heads, items = static_cast<int64_t>(blocks.size()) * heads, size = Scratch::floats(p);
  std::vector<int64_t> item_of, first_unit;
  for (int64_t i = 0; i < items; ++i) {
    first_unit.push_back(static_cast<int64_t>(item_of.size()));
    item_of.insert(item_of.end(), static_cast<size_t>(chunks_of(blocks[static_cast<size_t>(i / heads)].longest)), i);
  }
  const int64_t units = static_cast<int64_t>(item_of.size()), queries = p.block_queries(), width = p.width();
  const int64_t partial = padded(Partial::floats(queries, width));
  Memory memory(size * threads), partials(partial * (units + 1));
#pragma omp parallel num_threads(threads)
  {
    const Scratch s = Scratch::at(memory.at(size * omp_get_thread_num()), p);
#pragma omp for schedule(dynamic, 1)
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t item = item_of[static_cast<size_t>(unit)];
      const Block& block = blocks[static_cast<size_t>(item / heads)];
      attention.load_queries(block, item % heads, s.queries);
      attention.chunk(block, item % heads, (unit - first_unit[static_cast<size_t>(item)]) * kChunk, s,
                      Partial::at(partials.at(partial * unit), queries, width));
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < items; ++item) {
      const Block& block = blocks[static_cast<size_t>(item / heads)];
      const int64_t first = first_unit[static_cast<size_t>(item)];
      Partial total = Partial::at(partials.at(partial * first), queries, width);
      for (int64_t c = 1; c < chunks_of(block.longest); ++c) {
        attention.merge_chunk(block, c * kChunk, total, Partial::at(partials.at(partial * (first + c)), queries, width));
      }
      attention.finish(block, item % heads, total);
    }
  }
}

// Groups tokens into blocks. Returns -1, or the first token that is out of range.
int64_t make_blocks(const Problem& p, int64_t tokens, std::vector<Block>& blocks) {
  const int64_t most_tokens = p.block_tokens();
  int64_t checked_row = -1, checked_pages = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    if (!p.in_range(t)) return t;
    const int64_t row = p.row(t), length = p.length(t);
    if (row != checked_row) checked_pages = 0;
    checked_row = row;
    for (; checked_pages * p.cache.page_size < length; ++checked_pages) {
      if (!p.cache.has_page(row, checked_pages)) return t;
    }
    if (!blocks.empty() && blocks.back().row == row && blocks.back().count < most_tokens) {
      blocks.back().count += 1;
      blocks.back().longest = most(blocks.back().longest, length);
    } else {
      blocks.push_back({t, 1, row, length});
    }
  }
  return -1;
}

}  // namespace

int64_t paged_attention(DType dtype, Heads q, const PagedCache& cache, Indices rows, Indices lengths, int64_t extra,
                        float scale, void* out, int64_t tokens) {
  const Problem problem{dtype, q, cache, rows, lengths, extra, scale, out};
  std::vector<Block> blocks;
  blocks.reserve(static_cast<size_t>(tokens));
  const int64_t bad = make_blocks(problem, tokens, blocks);
  if (bad >= 0) return bad;
  if (q.count == 0 || cache.size == 0 || tokens == 0) return -1;

  int64_t work = 0, longest = 0;
  for (const Block& block : blocks) {
    work += 2 * block.count * block.longest * q.count * cache.size;
    longest = most(longest, block.longest);
  }
  const int64_t available = omp_in_parallel() ? 1 : omp_get_max_threads();
  const int threads = static_cast<int>(least(available, work / kGrain + 1));
  const int64_t items = static_cast<int64_t>(blocks.size()) * cache.heads;
  with_dtype(cache.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (threads == 1 || items >= kItems * threads || longest <= kChunk) {
      run_items<T>(problem, blocks, threads);
    } else {
      run_chunks<T>(problem, blocks, threads);
    }
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
