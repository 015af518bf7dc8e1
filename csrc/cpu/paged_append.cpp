#include "illume_fast/paged_append.h"

#include <cstring>
#include <type_traits>

#include "loops.h"
#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// elements a thread should have to be worth waking
constexpr int64_t kGrain = 32768;

template <typename From, typename To>
inline void convert(const From* from, To* to, int64_t count) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
  } else {
    for_each_vector(count, [=](int64_t i, int64_t n) { store_some(to + i, load_some(from + i, n), n); });
  }
}

bool in_range(const PagedCache& cache, int64_t row, int64_t position) {
  return row >= 0 && row < cache.table_rows && position >= 0 && position < cache.max_pages * cache.page_size &&
         cache.has_page(row, position / cache.page_size);
}

// Threads share out the heads, so that of two tokens with one place the later stays.
template <typename From, typename To>
void append(const Heads& k, const Heads& v, const PagedCache& cache, Indices rows, Indices positions, int64_t tokens) {
  const int64_t heads = cache.heads, size = cache.size;
  parallel_for(2 * heads, grain_of(kGrain, tokens * size), [=, &k, &v, &cache](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t row = rows.or_same(t), position = positions[t];
      const int64_t page = cache.table[row * cache.table_stride + position / cache.page_size];
      const int64_t at = (page * cache.page_size + position % cache.page_size) * heads;
      for (int64_t i = begin; i < end; ++i) {
        const Heads& from = i < heads ? k : v;
        const int64_t head = i % heads;
        convert(static_cast<const From*>(from.data) + t * from.token_stride + head * from.head_stride,
                static_cast<To*>(i < heads ? cache.k : cache.v) + (at + head) * size, size);
      }
    }
  });
}

}  // namespace

int64_t paged_append(DType dtype, Heads k, Heads v, const PagedCache& cache, Indices rows, Indices positions,
                     int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t) {
    if (!in_range(cache, rows.or_same(t), positions[t])) return t;
  }
  with_dtype(dtype, [&](auto from) {
    with_dtype(cache.dtype, [&](auto to) {
      append<decltype(from), decltype(to)>(k, v, cache, rows, positions, tokens);
    });
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
