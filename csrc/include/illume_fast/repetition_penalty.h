// Logits of ids that an answer holds already, made less likely; the rule is in illume_fast/ops/cfg_head_sample.py.
#pragma once

#include "illume_fast/cfg_sample.h"

namespace illume_fast {

// Lines of `size` ids, `stride` apart, of which the first counts[row], all at most, are those that row `row` has seen.
struct Seen {
  const int64_t* ids;
  int64_t size, stride;
  const int64_t* counts;
};

// Copies logits [rows, size], packed, whose first is that of id `first`, to float32, packed. Those of ids that the row has
// seen are divided by its penalty where positive, and multiplied by it elsewhere: once, however often an id was seen. A
// penalty that is not positive and finite makes NaN of a row.
ILLUME_FAST_PER_ISA(void, repetition_penalty,
                    (DType dtype, const void* logits, float* out, int64_t rows, int64_t size, int64_t first,
                     const Seen& seen, const PerRow<float>& penalty),
                    (dtype, logits, out, rows, size, first, seen, penalty))

}  // namespace illume_fast
