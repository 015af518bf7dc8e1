// bfloat16, emulated; see cuda_runtime.h beside this file.
#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __int_as_float(static_cast<int>(uint32_t{x.bits} << 16)); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  const auto bits = static_cast<uint32_t>(__float_as_int(x));
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
