// One call of paged_attention: its arguments, the blocks of tokens it is cut into, and the memory a thread works in.
#pragma once

#include <memory>

#include "attention_chunk.h"
#include "illume_fast/paged_attention.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

// queries that read each key together, if their tokens are neighbours in one row
constexpr int64_t kQueries = 16;
// keys or values that are gathered at once, as floats
constexpr int64_t kTile = 32;
// Rows so many bytes apart, or a multiple, share a few sets of a cache: several of them at once push each other out.
constexpr int64_t kFarApart = 2048;
constexpr int64_t kCacheLine = 64;
// Memory is read quickly in stretches of so many bytes, as some neighbouring heads of one token have together.
constexpr int64_t kStretch = 1024;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t chunks_of(int64_t length) { return (length + kChunk - 1) / kChunk; }

// Consecutive tokens of one row, and the largest of their lengths.
struct Block {
  int64_t first;
  int64_t count;
  int64_t row;
  int64_t longest;
};

struct Problem {
  DType dtype;
  Heads q;
  const PagedCache& cache;
  Indices rows;
  Indices lengths;
  int64_t extra;
  float scale;
  void* out;

  int64_t group() const { return q.count / cache.heads; }
  int64_t block_tokens() const { return most(1, kQueries / most(1, group())); }
  int64_t block_queries() const { return block_tokens() * group(); }
  // heads that a thread takes together
  int64_t heads_at_once() const {
    const int64_t bytes = cache.size * (cache.dtype == DType::f32 ? 4 : 2);
    return least(cache.heads, most(1, kStretch / most(1, bytes)));
  }
  // whole vectors of any type: 2 * kLanes numbers of 16 bits
  int64_t width() const { return (cache.size + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes); }
  int64_t row(int64_t token) const { return rows.or_same(token); }
  int64_t length(int64_t token) const { return lengths[token] + extra; }
  bool in_range(int64_t token) const {
    return row(token) >= 0 && row(token) < cache.table_rows && lengths[token] >= 0 &&
           lengths[token] <= cache.max_pages * cache.page_size - extra;
  }
};

// A thread's memory, in floats. Every part begins at a whole vector. Each head has queries and a total of its own.
struct Scratch {
  float* scores;
  float* tile;
  float* part;
  float* queries;
  float* total;

  static int64_t floats_of_head(const Problem& p) {
    return p.block_queries() * p.width() + padded(Partial::floats(p.block_queries(), p.width()));
  }
  static int64_t floats_of_part(const Problem& p) { return padded(Partial::floats(p.block_queries(), p.width())); }
  static int64_t floats(const Problem& p) {
    const int64_t n = p.block_queries(), w = p.width(), heads = p.heads_at_once();
    return padded(n * kChunk + kTile * w + heads * (floats_of_part(p) + floats_of_head(p))) + kCacheLine;
  }
  static Scratch at(float* memory, const Problem& p) {
    const int64_t n = p.block_queries(), w = p.width();
    float* tile = memory + n * kChunk;
    float* part = tile + kTile * w;
    float* queries = part + p.heads_at_once() * floats_of_part(p);
    return {memory, tile, part, queries, queries + n * w};
  }
  Scratch of_head(int64_t i, const Problem& p) const {
    const int64_t further = i * floats_of_head(p);
    return {scores, tile, part, queries + further, total + further};
  }
};

// Floats that begin at a cache line, not set to anything.
class Memory {
 public:
  explicit Memory(int64_t floats) : floats_(new float[static_cast<size_t>(floats + kCacheLine)]) {
    const auto address = reinterpret_cast<uintptr_t>(floats_.get());
    first_ = floats_.get() + (kCacheLine - address % kCacheLine) % kCacheLine / sizeof(float);
  }
  float* at(int64_t i) { return first_ + i; }

 private:
  std::unique_ptr<float[]> floats_;
  float* first_;
};

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
