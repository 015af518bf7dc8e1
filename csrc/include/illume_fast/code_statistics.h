// Counts and sums of the vectors that chose each code. The contract is in illume_fast/ops/code_statistics.py.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// `rows` vectors of `size` contiguous numbers, `stride` apart, with ids in [-1, codes), -1 leaving a vector out.
// counts [codes], sums [codes, size]; `starts` [codes + 1] and `order` [rows] are workspace.
// Returns -1, or the first row whose id is out of range, and has then written nothing of use.
ILLUME_FAST_PER_ISA(int64_t, code_statistics,
                    (DType dtype, const void* x, int64_t stride, const int64_t* ids, int64_t* starts, int64_t* order,
                     float* counts, float* sums, int64_t rows, int64_t size, int64_t codes),
                    (dtype, x, stride, ids, starts, order, counts, sums, rows, size, codes))

}  // namespace illume_fast
