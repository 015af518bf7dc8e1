#include "illume_fast/codebook_ema.h"

#include "by_code.h"
#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;  // numbers a thread should have to be worth waking

// Returns what a count plus eps is multiplied by to give the smoothed one.
double update_counts(const ByCode& by_code, float* counts, double decay, double eps) {
  double total = 0.0;
  for (int64_t k = 0; k < by_code.codes; ++k) {
    const double count = static_cast<double>(by_code.end(k) - by_code.begin(k));
    counts[k] = static_cast<float>(decay * static_cast<double>(counts[k]) + (1.0 - decay) * count);
    total += static_cast<double>(counts[k]);
  }
  return total == 0.0 ? 0.0 : total / (total + static_cast<double>(by_code.codes) * eps);
}

template <typename T, typename C>
void update_code(const Rows<T>& x, const ByCode& by_code, int64_t k, double smoothed, float* sums, C* codebook,
                 double decay, int64_t size) {
  const double inverse = smoothed == 0.0 ? 0.0 : 1.0 / smoothed;
  for_each_total(x, by_code, k, size, [=](int64_t first, int64_t n, Wide total) {
    float* to = sums + k * size + first;
    const vf moved = narrow(decay * load_wide(to, n) + (1.0 - decay) * total);
    store_some(to, moved, n);
    if (smoothed != 0.0) store_some(codebook + k * size + first, narrow(inverse * wide(moved)), n);
  });
}

}  // namespace

int64_t codebook_ema(DType dtype, const void* x, int64_t stride, const int64_t* ids, int64_t* ends, int64_t* order,
                     float* counts, float* sums, DType codebook_dtype, void* codebook, double decay, double eps,
                     int64_t rows, int64_t size, int64_t codes) {
  const int64_t bad = sort_by_code(ids, -1, ends, order, rows, codes);
  if (bad >= 0) return bad;
  const ByCode by_code{ends, order, codes};
  const double share = update_counts(by_code, counts, decay, eps);
  const int64_t per_code = (rows / (codes + 1) + 3) * (size + 1);
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const Rows<T> of_x{static_cast<const T*>(x), stride, nullptr};
    with_dtype(codebook_dtype, [=](auto code_tag) {
      using C = decltype(code_tag);
      parallel_for(codes, grain_of(kGrain, per_code), [=](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const double smoothed = (static_cast<double>(counts[k]) + eps) * share;
          update_code(of_x, by_code, k, smoothed, sums, static_cast<C*>(codebook), decay, size);
        }
      });
    });
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
