#include "illume_fast/rope.h"

#include "loops.h"
#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// elements a thread should have to be worth waking
constexpr int64_t kGrain = 16384;

template <typename T>
inline void turn(const Heads& heads, int64_t token, const float* cos, const float* sin, T* out, int64_t half) {
  const T* from = static_cast<const T*>(heads.data) + token * heads.token_stride;
  T* to = out + token * heads.count * 2 * half;
  for (int64_t head = 0; head < heads.count; ++head, from += heads.head_stride, to += 2 * half) {
    for_each_vector(half, [=](int64_t i, int64_t n) {
      const vf first = load_some(from + i, n), second = load_some(from + half + i, n);
      const vf c = load_some(cos + i, n), s = load_some(sin + i, n);
      store_some(to + i, first * c - second * s, n);
      store_some(to + half + i, second * c + first * s, n);
    });
  }
}

}  // namespace

void rope(DType dtype, Heads q, Heads k, const float* cos, const float* sin, int64_t table_rows, void* q_out,
          void* k_out, int64_t tokens, int64_t half) {
  if (half == 0) return;
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    parallel_for(tokens, grain_of(kGrain, (q.count + k.count) * 2 * half), [=](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        const int64_t row = token % table_rows * half;
        turn(q, token, cos + row, sin + row, static_cast<T*>(q_out), half);
        turn(k, token, cos + row, sin + row, static_cast<T*>(k_out), half);
      }
    });
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
