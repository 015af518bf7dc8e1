// Counts and sums of the vectors that chose each code. The contract is in illume_fast/ops/code_statistics.py.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// `rows` vectors of `size` contiguous numbers, `stride` apart, with ids in [-1, codes), -1 leaving a vector out.
// counts [codes], sums [codes, size]; `ends` [codes] and `order` [rows] are workspace.
// Returns -1, or the first row whose id is out of range, and has then written nothing of use.
ILLUME_FAST_PER_ISA(int64_t, code_statistics,
                    (DType dtype, const void* x, int64_t stride, const int64_t* ids, int64_t* ends, int64_t* order,
                     float* counts, float* sums, int64_t rows, int64_t size, int64_t codes),
                    (dtype, x, stride, ids, ends, order, counts, sums, rows, size, codes))

namespace cuda {

// The same on a GPU, for rows that are sorted: those of code k are order[bounds[k]] to order[bounds[k + 1] - 1]. Rows lie
// x_row and numbers x_column elements apart. Returns 0 or CUDA's error code, of the launch alone; codes > 0.
int code_statistics(DType dtype, const void* x, int64_t x_row, int64_t x_column, const int64_t* order,
                    const int64_t* bounds, float* counts, float* sums, int64_t codes, int64_t size, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
