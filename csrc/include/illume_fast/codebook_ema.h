// A codebook that follows the vectors by moving averages. The contract is in illume_fast/ops/codebook_ema.py.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// `rows` vectors of `size` contiguous numbers, `stride` apart, with ids in [-1, codes), -1 leaving a vector out.
// counts [codes], sums and codebook [codes, size] are updated; `ends` [codes] and `order` [rows] are workspace.
// Returns -1, or the first row whose id is out of range, and has then changed nothing.
ILLUME_FAST_PER_ISA(int64_t, codebook_ema,
                    (DType dtype, const void* x, int64_t stride, const int64_t* ids, int64_t* ends, int64_t* order,
                     float* counts, float* sums, DType codebook_dtype, void* codebook, double decay, double eps,
                     int64_t rows, int64_t size, int64_t codes),
                    (dtype, x, stride, ids, ends, order, counts, sums, codebook_dtype, codebook, decay, eps, rows, size,
                     codes))

}  // namespace illume_fast
