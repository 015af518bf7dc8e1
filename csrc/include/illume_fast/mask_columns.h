// Columns of a matrix made minus infinity.
#pragma once

#include <cstdint>

#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// x [rows, size], packed; columns bounds[0] to bounds[1], bounds[2] to bounds[3] and so on, `count` bounds in all.
ILLUME_FAST_PER_ISA(void, mask_columns,
                    (DType dtype, void* x, int64_t rows, int64_t size, const int64_t* bounds, int64_t count),
                    (dtype, x, rows, size, bounds, count))

}  // namespace illume_fast
