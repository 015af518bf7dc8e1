// One product of the tensor cores, with the layout of its pieces over a warp.
#pragma once

#include "common.cuh"

namespace illume_fast::cuda {

// d += a b, a being 16 x 16 and b 16 x 8, of bfloat16, d 16 x 8. With g = lane / 4 and p = 2 (lane % 4), two neighbours in
// a word: a[0] row g and a[1] row g + 8, columns p; a[2], a[3] the same rows, columns p + 8; b[0] rows p, b[1] rows p + 8,
// of column g; d[0], d[1] row g and d[2], d[3] row g + 8, columns p and p + 1.
__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulated::multiply(d, a, b);
#endif
}

}  // namespace illume_fast::cuda
