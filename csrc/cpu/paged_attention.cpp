#include "illume_fast/paged_attention.h"

#include <vector>

#include "attention.h"
#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// multiply-adds that a thread should have to be worth waking
constexpr int64_t kGrain = 1 << 19;
// items a thread should have so that unequal ones even out; with fewer, items are split into chunks
constexpr int64_t kItems = 3;

// Items, a block and `some` heads each, are handed out one by one; what each thread gets does not matter. A is an
// Attention.
template <typename A>
void run_items(const Problem& p, const std::vector<Block>& blocks, int64_t some, int threads) {
  const A attention(p);
  const int64_t heads = p.cache.heads, groups = (heads + some - 1) / some;
  const int64_t items = static_cast<int64_t>(blocks.size()) * groups, size = Scratch::floats(p);
  Memory memory(size * threads);
  parallel_items(items, threads, [&](int64_t i, int64_t rank) {
    const Scratch s = Scratch::at(memory.at(size * rank), p);
    const int64_t head = i % groups * some;
    attention.whole(blocks[static_cast<size_t>(i / groups)], head, least(heads, head + some), s);
  });
}

// Few long items: all their chunks at once, `some` heads together, then the chunks of each block and head put together in
// order, as `whole` does.
template <typename A>
void run_chunks(const Problem& p, const std::vector<Block>& blocks, int64_t some, int threads) {
  const A attention(p);
  const int64_t heads = p.cache.heads, groups = (heads + some - 1) / some, size = Scratch::floats(p);
  const int64_t items = static_cast<int64_t>(blocks.size()) * groups;
  std::vector<int64_t> item_of, first_unit;
  for (int64_t i = 0; i < items; ++i) {
    first_unit.push_back(static_cast<int64_t>(item_of.size()));
    item_of.insert(item_of.end(), static_cast<size_t>(chunks_of(blocks[static_cast<size_t>(i / groups)].longest)), i);
  }
  const int64_t units = static_cast<int64_t>(item_of.size()), queries = p.block_queries(), width = p.width();
  const int64_t partial = padded(Partial::floats(queries, width));
  Memory memory(size * threads), partials(partial * some * (units + 1));
  parallel_items(units, threads, [&](int64_t unit, int64_t rank) {
    const Scratch s = Scratch::at(memory.at(size * rank), p);
    const int64_t item = item_of[static_cast<size_t>(unit)];
    const Block& block = blocks[static_cast<size_t>(item / groups)];
    const int64_t head = item % groups * some, end = least(heads, head + some);
    for (int64_t h = head; h < end; ++h) attention.load_queries(block, h, s.of_head(h - head, p).queries);
    attention.chunk_of_heads(block, head, end, (unit - first_unit[static_cast<size_t>(item)]) * kChunk, s,
                             Partial::at(partials.at(partial * some * unit), queries, width), partial);
  });
  parallel_items(static_cast<int64_t>(blocks.size()) * heads, threads, [&](int64_t i, int64_t) {
    const Block& block = blocks[static_cast<size_t>(i / heads)];
    const int64_t head = i % heads, first = first_unit[static_cast<size_t>(i / heads * groups + head / some)];
    const auto part = [&](int64_t chunk) {
      return Partial::at(partials.at(partial * ((first + chunk) * some + head % some)), queries, width);
    };
    Partial total = part(0);
    for (int64_t c = 1; c < chunks_of(block.longest); ++c) attention.merge_chunk(block, c * kChunk, total, part(c));
    attention.finish(block, head, total);
  });
}

// A type as a value.
template <typename T>
struct Named {
  using Type = T;
};

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
  const int threads = static_cast<int>(least(available_threads(), work / worth_waking(kGrain) + 1));
  const int64_t items = static_cast<int64_t>(blocks.size()) * cache.heads, together = problem.heads_at_once();
  const auto run = [&](auto attention) {
    using A = typename decltype(attention)::Type;
    if (threads == 1 || items >= kItems * threads * together) {
      run_items<A>(problem, blocks, together, threads);
    } else if (longest > kChunk) {
      run_chunks<A>(problem, blocks, together, threads);
    } else {
      run_items<A>(problem, blocks, 1, threads);
    }
  };
#if defined(__AVX512BF16__)
  if (dtype == DType::bf16 && cache.dtype == DType::bf16) {
    run(Named<Attention<bf16, true>>{});
    return -1;
  }
#endif
  with_dtype(cache.dtype, [&](auto tag) { run(Named<Attention<decltype(tag)>>{}); });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
