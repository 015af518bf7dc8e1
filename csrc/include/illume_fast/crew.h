// Threads that stay awake from one kernel to the next. Waking a thread costs microseconds, which a chain of small kernels
// would pay at each; a crew is woken once for all of them.
#pragma once

#include <cstdint>

namespace illume_fast {

// Runs chain(context) on the calling thread while the other threads of OpenMP stand by for the kernels it calls; what it
// throws goes on to the caller. Without threads to spare (one thread, inside a parallel region, in a forked child) it
// simply runs.
void with_crew(void (*chain)(void*), void* context);

// Threads that work for the calling one: 0 when it leads no crew, 1 when its crew is at work already.
int64_t crew_size();

// work(context, rank) for every rank below `threads` <= crew_size(), the calling thread being rank 0; returns when all have.
// For the leader of a crew; work must not throw.
void crew_run(int64_t threads, void (*work)(void*, int64_t), void* context);

}  // namespace illume_fast
