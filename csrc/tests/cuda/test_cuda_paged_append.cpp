// The GPU's way into the cache, beside that of the CPU.
#include "check.h"
#include "paged_append.cuh"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

constexpr int64_t kTokens = 6, kHeads = 2, kSize = 5, kPageSize = 4, kPages = 13, kMaxPages = 2;

// `rows` and `positions` may be out of range: such a token is left out.
void compare(const std::vector<int32_t>* rows, std::vector<int64_t> positions, std::vector<bool> bad) {
  const int64_t token = kHeads * kSize, all = kPages * kPageSize * token;
  Buffer<float> k(kTokens * token), v(kTokens * token), expected_k(all), expected_v(all), actual_k(all), actual_v(all);
  fill(k, 1);
  fill(v, 2);
  Buffer<int32_t> table(kTokens * kMaxPages);
  for (int64_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i * 5 % kPages);
  const Heads keys{k.get(), token, kSize, kHeads}, values{v.get(), token, kSize, kHeads};
  const auto cache = [&](Buffer<float>& at_k, Buffer<float>& at_v) {
    return PagedCache{DType::f32, at_k.get(),  at_v.get(), kPages,    kPageSize, kHeads,
                      kSize,      table.get(), kTokens,    kMaxPages, kMaxPages};
  };
  const Indices of_rows{rows == nullptr ? nullptr : rows->data(), false}, of_positions{positions.data(), true};
  for (int64_t i = 0; i < kTokens * token; ++i) {
    cuda::append_element<float, float>(keys, values, cache(actual_k, actual_v), of_rows, of_positions, i);
  }
  for (int64_t t = 0; t < kTokens; ++t) {
    if (bad[static_cast<size_t>(t)]) continue;
    const int32_t row = rows == nullptr ? static_cast<int32_t>(t) : (*rows)[static_cast<size_t>(t)];
    const Heads one_k{k.get() + t * token, token, kSize, kHeads}, one_v{v.get() + t * token, token, kSize, kHeads};
    CHECK(paged_append(DType::f32, one_k, one_v, cache(expected_k, expected_v), {&row, false},
                       {&positions[static_cast<size_t>(t)], true}, 1) == -1);
  }
  CHECK(std::memcmp(actual_k.get(), expected_k.get(), static_cast<size_t>(all) * sizeof(float)) == 0);
  CHECK(std::memcmp(actual_v.get(), expected_v.get(), static_cast<size_t>(all) * sizeof(float)) == 0);
}

}  // namespace

int main() {
  const std::vector<int32_t> rows{3, 0, 0, 6, -1, 2};
  compare(&rows, {1, 0, 7, 2, 3, 8}, {false, false, false, true, true, true});
  compare(nullptr, {1, 0, 7, -1, 3, 8}, {false, false, false, true, false, true});
  return report();
}
