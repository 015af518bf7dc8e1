// How fast this CPU multiplies: the floor that benchmarks compare with.
#pragma once

#include <cstdint>

#include "illume_fast/isa.h"

namespace illume_fast {

// Runs `rounds` rounds of independent multiply-adds in registers on every thread; returns the number of float32
// operations done, two for each multiply-add and lane.
ILLUME_FAST_PER_ISA(int64_t, multiply_adds, (int64_t rounds), (rounds))

// The same for products of bfloat16 numbers added up in float32, where the CPU has an instruction for it.
ILLUME_FAST_PER_ISA(int64_t, rounded_multiply_adds, (int64_t rounds), (rounds))

}  // namespace illume_fast
