#include "illume_fast/repetition_penalty.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "loops.h"
#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// logits a thread should have to be worth waking
constexpr int64_t kGrain = 16384;

template <typename T>
void penalize_row(const T* logits, float* out, int64_t size, int64_t first, const int64_t* seen, int64_t count,
                  float penalty) {
  if (!(penalty > 0.0f && std::isfinite(penalty))) {
    std::fill(out, out + size, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  for_each_vector(size, [=](int64_t i, int64_t n) { store_some(out + i, load_some(logits + i, n), n); });
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = seen[i] - first;
    if (place < 0 || place >= size) continue;
    // from what was given, so that an id seen twice is made smaller once
    const float z = load_n(logits + place, 1)[0];
    out[place] = z > 0.0f ? z / penalty : z * penalty;
  }
}

}  // namespace

void repetition_penalty(DType dtype, const void* logits, float* out, int64_t rows, int64_t size, int64_t first,
                        const Seen& seen, const PerRow<float>& penalty) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    parallel_for(rows, grain_of(kGrain, size), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float own = penalty.rows != nullptr ? penalty.rows[row] : penalty.value;
        penalize_row(static_cast<const T*>(logits) + row * size, out + row * size, size, first,
                     seen.ids + row * seen.stride, std::min(seen.counts[row], seen.size), own);
      }
    });
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
