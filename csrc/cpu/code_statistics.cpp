#include "illume_fast/code_statistics.h"

#include "parallel.h"
#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;  // numbers a thread should have to be worth waking
constexpr int64_t kColumns = 256;  // summed in double at a time

// Rows by code, in the order they came in: those of code k are order[starts[k]] to order[starts[k + 1]].
int64_t sort(const int64_t* ids, int64_t* starts, int64_t* order, int64_t rows, int64_t codes) {
  for (int64_t k = 0; k <= codes; ++k) starts[k] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (ids[row] < -1 || ids[row] >= codes) return row;
    if (ids[row] >= 0) ++starts[ids[row]];
  }
  int64_t total = 0;
  for (int64_t k = 0; k <= codes; ++k) {
    const int64_t count = starts[k];
    starts[k] = total;
    total += count;
  }
  // moves each start to the end of its code, which is where the next one starts
  for (int64_t row = 0; row < rows; ++row) {
    if (ids[row] >= 0) order[starts[ids[row]]++] = row;
  }
  for (int64_t k = codes; k > 0; --k) starts[k] = starts[k - 1];
  starts[0] = 0;
  return -1;
}

template <typename T>
void add_up(const T* x, int64_t stride, const int64_t* rows, int64_t count, int64_t size, float* sums) {
  for (int64_t first = 0; first < size; first += kColumns) {
    const int64_t columns = size - first < kColumns ? size - first : kColumns;
    double total[kColumns];
    float row[kColumns];
    for (int64_t d = 0; d < columns; ++d) total[d] = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      const T* p = x + rows[i] * stride + first;
      int64_t d = 0;
      for (; d + kLanes <= columns; d += kLanes) store(row + d, load(p + d));
      if (d < columns) store_n(row + d, load_n(p + d, columns - d), columns - d);
      for (d = 0; d < columns; ++d) total[d] += row[d];
    }
    for (int64_t d = 0; d < columns; ++d) sums[first + d] = static_cast<float>(total[d]);
  }
}

}  // namespace

int64_t code_statistics(DType dtype, const void* x, int64_t stride, const int64_t* ids, int64_t* starts, int64_t* order,
                        float* counts, float* sums, int64_t rows, int64_t size, int64_t codes) {
  const int64_t bad = sort(ids, starts, order, rows, codes);
  if (bad >= 0) return bad;
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const int64_t per_code = (rows / (codes + 1) + 1) * (size + 1);
    // a code belongs to one thread, so its sum is the same however many there are
    parallel_for(codes, grain_of(kGrain, per_code), [=](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t count = starts[k + 1] - starts[k];
        counts[k] = static_cast<float>(count);
        add_up(static_cast<const T*>(x), stride, order + starts[k], count, size, sums + k * size);
      }
    });
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
