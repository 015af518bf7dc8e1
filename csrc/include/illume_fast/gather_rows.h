// Rows of a table by their numbers.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// out[t] = table[index[t]] for rows of `bytes` bytes, `stride` bytes apart in the table; zeros where index[t] is negative.
// Returns -1, or the first t whose index is not below `rows`; nothing is written then.
ILLUME_FAST_PER_ISA(int64_t, gather_rows,
                    (const void* table, int64_t stride, int64_t rows, int64_t bytes, const int64_t* index, void* out,
                     int64_t count),
                    (table, stride, rows, bytes, index, out, count))

namespace cuda {

// The same on a GPU, where a row whose number is too large gets ones in every bit, which is NaN in a floating-point type.
// Returns 0 or CUDA's error code, of the launch alone; bytes and count are not 0.
int gather_rows(const void* table, int64_t stride, int64_t rows, int64_t bytes, const int64_t* index, void* out,
                int64_t count, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
