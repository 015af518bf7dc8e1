// Threads for the CPU kernels: OpenMP, whose runtime the process shares with torch, so torch.set_num_threads rules.
#pragma once

#include <omp.h>

#include <cstdint>

#include "illume_fast/fork.h"
#include "illume_fast/threads.h"

#ifndef ILLUME_FAST_ISA_NS
#error "compile this file through CMake, which defines ILLUME_FAST_ISA_NS"
#endif

namespace illume_fast::ILLUME_FAST_ISA_NS {

// Threads that a kernel called here may use.
inline int64_t available_threads() { return omp_in_parallel() || forked() ? 1 : omp_get_max_threads(); }

// What a thread should have to do to be worth waking, where `work` is enough for one that is awake.
inline int64_t worth_waking(int64_t work) { return threads_sleep() ? 4 * work : work; }

// The same in units that take `per_unit` each.
inline int64_t grain_of(int64_t work, int64_t per_unit) { return worth_waking(work) / (per_unit + 1) + 1; }

// Calls f(begin, end) on contiguous parts of [0, n), one part a thread, each of at least `grain` indices; small work runs
// on the calling thread alone. f must not throw.
template <typename F>
inline void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return;
  const int64_t most = grain > 0 ? (n + grain - 1) / grain : n;
  const int64_t available = available_threads();
  const int threads = static_cast<int>(most < available ? most : available);
  if (threads <= 1) return f(int64_t{0}, n);
#pragma omp parallel num_threads(threads)
  {
    const int64_t count = omp_get_num_threads(), rank = omp_get_thread_num();
    const int64_t begin = n * rank / count, end = n * (rank + 1) / count;
    if (begin < end) f(begin, end);
  }
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
