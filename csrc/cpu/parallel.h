// Threads for the CPU kernels: OpenMP, whose runtime the process shares with torch, so torch.set_num_threads rules.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>

#include "illume_fast/crew.h"
#include "illume_fast/fork.h"
#include "illume_fast/threads.h"

#ifndef ILLUME_FAST_ISA_NS
#error "compile this file through CMake, which defines ILLUME_FAST_ISA_NS"
#endif

namespace illume_fast::ILLUME_FAST_ISA_NS {

// Threads that a kernel called here may use.
inline int64_t available_threads() {
  const int64_t crew = crew_size();
  if (crew > 0) return crew;
  return omp_in_parallel() || forked() ? 1 : omp_get_max_threads();
}

// What a thread should have to do to be worth waking, where `work` is enough for one that is awake.
inline int64_t worth_waking(int64_t work) { return threads_sleep() && crew_size() == 0 ? 4 * work : work; }

// The same in units that take `per_unit` each.
inline int64_t grain_of(int64_t work, int64_t per_unit) { return worth_waking(work) / (per_unit + 1) + 1; }

// Calls f(rank, count) on `count` threads at once, as many as asked for or as there are. f must not throw.
template <typename F>
inline void on_threads(int64_t threads, F&& f) {
  if (threads <= 1) return f(int64_t{0}, int64_t{1});
  if (crew_size() > 1) {
    struct Work {
      F& f;
      int64_t count;
    } work{f, threads};
    return crew_run(
        threads, [](void* w, int64_t rank) { static_cast<Work*>(w)->f(rank, static_cast<Work*>(w)->count); }, &work);
  }
#pragma omp parallel num_threads(static_cast<int>(threads))
  f(int64_t{omp_get_thread_num()}, int64_t{omp_get_num_threads()});
}

// Calls f(begin, end) on contiguous parts of [0, n), one part a thread, each of at least `grain` indices; small work runs
// on the calling thread alone. f must not throw.
template <typename F>
inline void parallel_for(int64_t n, int64_t grain, F&& f) {
  if (n <= 0) return;
  const int64_t most = grain > 0 ? (n + grain - 1) / grain : n;
  const int64_t available = available_threads();
  on_threads(most < available ? most : available, [&](int64_t rank, int64_t count) {
    const int64_t begin = n * rank / count, end = n * (rank + 1) / count;
    if (begin < end) f(begin, end);
  });
}

// Calls f(item, rank) for every item below n; the threads take one after the other as they come. f must not throw.
template <typename F>
inline void parallel_items(int64_t n, int64_t threads, F&& f) {
  std::atomic<int64_t> next{0};
  on_threads(threads, [&](int64_t rank, int64_t) {
    for (int64_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) f(i, rank);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
