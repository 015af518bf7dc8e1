// Rotary position embedding: turns pairs (i, i + half) of each head; arithmetic in f32.
#pragma once

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/heads.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// q_out and k_out are packed. Token t takes row t % table_rows of cos and sin, packed [table_rows, half].
ILLUME_FAST_PER_ISA(void, rope,
                    (DType dtype, Heads q, Heads k, const float* cos, const float* sin, int64_t table_rows, void* q_out,
                     void* k_out, int64_t tokens, int64_t half),
                    (dtype, q, k, cos, sin, table_rows, q_out, k_out, tokens, half))

namespace cuda {

// The same on a GPU. Returns 0 or CUDA's error code, of the launch alone; there is at least one pair to turn.
int rope(DType dtype, Heads q, Heads k, const float* cos, const float* sin, int64_t table_rows, void* q_out, void* k_out,
         int64_t tokens, int64_t half, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
