// Keys and values in pages, and where a sequence's pages are.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"

namespace illume_fast {

// k and v are packed [num_pages, page_size, heads, size]. Position p of row r lies in page
// table[r * table_stride + p / page_size]; the table has table_rows rows of max_pages entries.
struct PagedCache {
  DType dtype;
  void* k;
  void* v;
  int64_t num_pages;
  int64_t page_size;
  int64_t heads;
  int64_t size;
  const int32_t* table;
  int64_t table_rows;
  int64_t table_stride;
  int64_t max_pages;

  bool has_page(int64_t row, int64_t index) const {
    const int64_t page = table[row * table_stride + index];
    return page >= 0 && page < num_pages;
  }
};

// Packed int32 or int64 numbers.
struct Indices {
  const void* data;
  bool wide;

  int64_t operator[](int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
  // i itself where there are no numbers
  int64_t or_same(int64_t i) const { return data == nullptr ? i : (*this)[i]; }
};

}  // namespace illume_fast
