// What OpenMP's threads do between two kernels.
#pragma once

namespace illume_fast {

// Whether they sleep at once (OMP_WAIT_POLICY=passive, or GOMP_SPINCOUNT=0): waking one then takes longer than many a kernel.
bool threads_sleep();

}  // namespace illume_fast
