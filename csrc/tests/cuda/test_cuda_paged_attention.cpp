// The GPU's attention over pages, run on emulated blocks, beside that of the CPU kernels.
#include "check.h"
#include "illume_fast/paged_attention.h"
#include "paged_attention.cuh"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

constexpr int64_t kTokens = 3, kPageSize = 16;

struct Case {
  int64_t query_heads, heads, size;
  int32_t lengths[kTokens];
};

template <int D, int G>
void compare(const Case& c) {
  const int64_t max_pages = 40, num_pages = kTokens * max_pages + 1, page = kPageSize * c.heads * c.size;
  Buffer<float> q(kTokens * c.query_heads * c.size), k(num_pages * page), v(num_pages * page);
  fill(q, 1, 3.0f);
  fill(k, 2);
  fill(v, 3);
  Buffer<int32_t> table(kTokens * max_pages), lengths(kTokens);
  for (int64_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>((i * 7 + 3) % num_pages);
  for (int64_t t = 0; t < kTokens; ++t) lengths[t] = c.lengths[t];
  const PagedCache cache{DType::f32, k.get(),       v.get(),   num_pages, kPageSize, c.heads,
                         c.size,     table.get(), kTokens, max_pages, max_pages};
  const Heads queries{q.get(), c.query_heads * c.size, c.size, c.query_heads};
  Buffer<float> expected(q.size()), actual(q.size());
  CHECK(paged_attention(DType::f32, queries, cache, {nullptr, false}, {lengths.get(), false}, 0, 0.3f, expected.get(),
                        kTokens) == -1);

  const int64_t stretches = (max_pages * kPageSize + cuda::kStretch - 1) / cuda::kStretch;
  Buffer<float> parts(kTokens * c.query_heads * stretches * (D + 2));
  const cuda::AttentionArgs args{DType::f32,           queries, cache,        {nullptr, false}, {lengths.get(), false}, 0,
                                 0.3f,                 actual.get(), parts.get(), stretches};
  const int64_t group = c.query_heads / c.heads, blocks = c.heads * ((group + G - 1) / G);
  using Shared = cuda::BlockShared<float, D, G>;
  for (int64_t token = 0; token < kTokens; ++token) {
    for (int64_t head = 0; head < blocks; ++head) {
      for (int64_t stretch = 0; stretch < stretches; ++stretch) {
        Buffer<Shared> shared(1);
        emulated::run_cluster(1, cuda::kAttentionThreads, {reinterpret_cast<char*>(shared.get())},
                              [&] { cuda::attend_block<float, D, G>(args, stretch, head, token, *shared.get()); });
      }
    }
    for (int64_t head = 0; head < c.query_heads; ++head) {
      for (int d = 0; d < D; ++d) cuda::join_parts<D>(args, head, token, d);
    }
  }
  for (int64_t i = 0; i < q.size(); ++i) CHECK_NEAR(actual[i], expected[i], 2e-6);
}

}  // namespace

int main() {
  compare<32, 1>({2, 2, 32, {1, 31, 600}});
  compare<32, 4>({6, 1, 24, {0, 33, 513}});
  compare<64, 4>({3, 1, 64, {512, 128, 17}});
  compare<32, 8>({14, 2, 20, {5, 160, 0}});
  return report();
}
