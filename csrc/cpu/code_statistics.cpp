#include "illume_fast/code_statistics.h"

#include "by_code.h"
#include "parallel.h"
#include "stream.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;  // numbers a thread should have to be worth waking

}  // namespace

int64_t code_statistics(DType dtype, const void* x, int64_t stride, const int64_t* ids, int64_t* ends, int64_t* order,
                        float* counts, float* sums, int64_t rows, int64_t size, int64_t codes) {
  const int64_t bad = sort_by_code(ids, -1, ends, order, rows, codes);
  if (bad >= 0) return bad;
  prefer_huge_pages(sums, codes * size * static_cast<int64_t>(sizeof(float)));
  const ByCode by_code{ends, order, codes};
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const Rows<T> of_x{static_cast<const T*>(x), stride, nullptr};
    const int64_t per_code = (rows / (codes + 1) + 1) * (size + 1);
    // a code belongs to one thread, so its sum is the same however many there are
    parallel_for(codes, grain_of(kGrain, per_code), [=](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        counts[k] = static_cast<float>(by_code.end(k) - by_code.begin(k));
        float* to = sums + k * size;
        if (counts[k] == 0.0f) {
          for (int64_t d = 0; d < size; ++d) to[d] = 0.0f;
          continue;
        }
        for_each_total(of_x, by_code, k, size, [=](int64_t first, int64_t n, Wide total) {
          store_some(to + first, narrow(total), n);
        });
      }
    });
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
