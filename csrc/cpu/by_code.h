// Rows in the order of the codes they chose, and sums over those of a code.
#pragma once

#include "wide.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

// The rows of code k are order[begin(k)] to order[end(k) - 1], as they came in; rows without a code are left out.
struct ByCode {
  const int64_t* ends;
  const int64_t* order;
  int64_t codes;

  int64_t begin(int64_t k) const { return k == 0 ? 0 : ends[k - 1]; }
  int64_t end(int64_t k) const { return ends[k]; }
};

// Fills ends [codes] and order [rows]. Returns -1, or the first row whose id is not in [least, codes).
inline int64_t sort_by_code(const int64_t* ids, int64_t least, int64_t* ends, int64_t* order, int64_t rows,
                            int64_t codes) {
  for (int64_t k = 0; k < codes; ++k) ends[k] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (ids[row] < least || ids[row] >= codes) return row;
    if (ids[row] >= 0) ++ends[ids[row]];
  }
  int64_t total = 0;
  for (int64_t k = 0; k < codes; ++k) {
    const int64_t count = ends[k];
    ends[k] = total;
    total += count;
  }
  for (int64_t row = 0; row < rows; ++row) {
    if (ids[row] >= 0) order[ends[ids[row]]++] = row;
  }
  return -1;
}

// Vectors of `size` contiguous numbers, `stride` apart, each times its weight, or 1 without weights.
template <typename T>
struct Rows {
  const T* x;
  int64_t stride;
  const float* weights;
};

// Calls f(first + v * kLanes, n, total) for v in [0, kVectors), with the sums of the n numbers from there on of the rows
// of code k; n is kLanes unless kVectors is 1.
template <int kVectors, typename T, typename F>
inline void add_up(const Rows<T>& rows, const ByCode& by_code, int64_t k, int64_t first, int64_t n, F&& f) {
  constexpr int64_t kAhead = 8;
  const int64_t last = by_code.end(by_code.codes - 1);
  Wide total[kVectors] = {};
  for (int64_t i = by_code.begin(k); i < by_code.end(k); ++i) {
    const int64_t row = by_code.order[i];
    if (i + kAhead < last) {
      const T* next = rows.x + by_code.order[i + kAhead] * rows.stride + first;
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(next + v * kLanes);
    }
    const T* p = rows.x + row * rows.stride + first;
    const double weight = rows.weights == nullptr ? 1.0 : static_cast<double>(rows.weights[row]);
    for (int v = 0; v < kVectors; ++v) {
      total[v] = total[v] + weight * load_wide(p + v * kLanes, kVectors == 1 ? n : kLanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) f(first + v * kLanes, kVectors == 1 ? n : int64_t{kLanes}, total[v]);
}

// Calls f(first, n, total) for all numbers of a row, kLanes at a time, with the sums of numbers first to first + n - 1
// of the rows of code k, added up in the order the rows came in.
template <typename T, typename F>
inline void for_each_total(const Rows<T>& rows, const ByCode& by_code, int64_t k, int64_t size, F&& f) {
  int64_t first = 0;
  for (; first + 4 * kLanes <= size; first += 4 * kLanes) add_up<4>(rows, by_code, k, first, kLanes, f);
  if (first + 2 * kLanes <= size) {
    add_up<2>(rows, by_code, k, first, kLanes, f);
    first += 2 * kLanes;
  }
  for (; first < size; first += kLanes) {
    add_up<1>(rows, by_code, k, first, size - first < kLanes ? size - first : int64_t{kLanes}, f);
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
