// What a decoding step feeds, how it draws, and what it writes down; see illume_fast/plan_steps.h.
//
// Nobody can be told from here of a slot without a next draw. So such a stream feeds one token that stands nowhere, which
// attention makes NaN, and such a row draws at temperature NaN: both give id -1, which the host takes for an error.
#pragma once

#include "common.cuh"
#include "illume_fast/plan_steps.h"

namespace illume_fast::cuda {

constexpr int kFeedThreads = 256;

struct FeedOutputs {
  int64_t *ids, *positions, *stream_of, *last;
};

struct FeedShared {
  int64_t of_warp[kFeedThreads / 32];
};

// The steps of the next `size` draws of a slot, its last draw's in front; null if they are not there, or do not rise.
__device__ inline const int64_t* next_draws(const PlanTables& p, int64_t slot, int64_t size) {
  const int64_t drawn = p.drawn[slot];
  if (drawn < 1 || size < 1 || size > p.draws - drawn) return nullptr;
  const int64_t* next = p.draw_step + slot * p.draws + drawn;
  if (next[-1] < 0) return nullptr;
  for (int64_t j = 0; j < size; ++j) {
    if (next[j] <= next[j - 1] || next[j] > p.width) return nullptr;
  }
  return next;
}

// How many draws a slot makes at once: one without windows; 0 where there is no such slot, or its window does not fit.
__device__ inline int64_t draws_at_once(const PlanTables& p, const int64_t* window, int64_t width, int64_t slot) {
  if (slot < 0 || slot >= p.slots) return 0;
  const int64_t size = window == nullptr ? 1 : window[slot];
  return size <= width ? size : 0;
}

// What a stream is fed: the steps of its slot's answer from its last draw's on, `count` of them, for `size` draws at
// `next`; null if there are no such draws.
struct Fed {
  int64_t slot, count, size;
  const int64_t* next;
};

__device__ inline Fed fed_by(const PlanTables& p, const int64_t* window, int64_t width, int64_t slot) {
  const int64_t size = draws_at_once(p, window, width, slot);
  const int64_t* next = size > 0 ? next_draws(p, slot, size) : nullptr;
  if (next == nullptr) return {0, 1, 1, nullptr};
  return {slot, next[size - 1] - next[-1], size, next};
}

// The sum of `value` over the block's threads up to this one; `total` over all of them.
__device__ inline int64_t sum_up_to(int64_t value, FeedShared& s, int64_t& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t below = __shfl_up_sync(0xffffffffu, value, offset);
    if (lane >= offset) value += below;
  }
  __syncthreads();  // of_warp may still be read from the round before
  if (lane == 31) s.of_warp[warp] = value;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kFeedThreads / 32; ++w) {
    if (w == warp) value += total;
    total += s.of_warp[w];
  }
  return value;
}

// One block: thread i takes streams i, i + kFeedThreads, ... and then a share of the places left over. A stream whose
// tokens do not fit has its newest behind them all, which `gather_rows` answers with NaN. `window` may be null, and `width`
// is 1 then.
__device__ inline void feed_block(const PlanTables& p, const int64_t* slot_of, const int64_t* start,
                                  const int64_t* window, int64_t streams, int64_t width, int64_t filler,
                                  int64_t page_size, const FeedOutputs& out, int64_t tokens, FeedShared& shared) {
  int64_t used = 0;
  for (int64_t from = 0; from < streams; from += kFeedThreads) {
    const int64_t s = from + threadIdx.x;
    const Fed fed = s < streams ? fed_by(p, window, width, slot_of[s]) : Fed{0, 0, 0, nullptr};
    int64_t total;
    const int64_t begin = used + sum_up_to(fed.count, shared, total) - fed.count;
    const bool good = fed.next != nullptr, fits = begin + fed.count <= tokens;
    const int64_t first = good ? fed.next[-1] : 0;
    for (int64_t i = 0; i < fed.count && begin + i < tokens; ++i) {
      const int64_t id = good ? p.answers[fed.slot * p.width + first + i] : 0, t = begin + i;
      out.ids[t] = id < 0 ? 0 : id;
      out.positions[t] = good && fits ? start[s] + first + i : -1;
      out.stream_of[t] = good && fits ? s : filler;
    }
    for (int64_t j = 0; s < streams && j < width; ++j) {
      const int64_t stop = good ? fed.next[j < fed.size ? j : fed.size - 1] : 1;
      out.last[s * width + j] = fits ? begin + stop - first - 1 : tokens;
    }
    used += total;
  }
  for (int64_t t = used + threadIdx.x; t < tokens; t += kFeedThreads) {
    out.ids[t] = 0;
    out.positions[t] = (t - used) % page_size;
    out.stream_of[t] = filler;
  }
}

// `ahead` may be null.
__device__ inline void draw_row(const PlanTables& p, const PlanSettings& s, const int64_t* order, const int64_t* ahead,
                                const DrawParameters& out, int64_t r) {
  const int64_t slot = order[r];
  const bool known = slot >= 0 && slot < p.slots;
  const int64_t next = known ? p.drawn[slot] + (ahead == nullptr ? 0 : ahead[r]) : -1;
  const bool there = next >= 0 && next < p.draws;
  const int64_t draw = there ? slot * p.draws + next : 0;
  const int64_t own = there ? s.draw_kind[draw] : -1;
  if (own < 0 || own >= s.kinds) {
    out.step[r] = out.seed[r] = out.top_k[r] = 0;
    out.guidance[r] = out.temperature[r] = out.top_p[r] = out.min_p[r] = NAN;
    return;
  }
  const int64_t kind = slot * s.kinds + own, step = p.draw_step[draw];
  const bool guided = s.guidance_from[slot] <= step && step < s.guidance_until[slot];
  out.step[r] = step;
  out.seed[r] = s.seed[slot];
  out.guidance[r] = guided ? s.guidance[kind] : 1.0f;
  out.temperature[r] = s.temperature[kind];
  out.top_k[r] = s.top_k[kind];
  out.top_p[r] = s.top_p[kind];
  out.min_p[r] = s.min_p[kind];
}

// A slot without a next draw keeps its answer and gets -1 in `latest`.
__device__ inline void record_row(const PlanTables& p, const int64_t* order, const int64_t* ids, int64_t* latest,
                                  int64_t r) {
  const int64_t slot = order[r];
  if (slot < 0 || slot >= p.slots) return;
  const int64_t drawn = p.drawn[slot];
  const int64_t step = drawn >= 0 && drawn < p.draws ? p.draw_step[slot * p.draws + drawn] : -1;
  const bool good = step >= 0 && step < p.width;
  latest[slot] = good ? ids[r] : -1;
  if (!good || slot == p.slots - 1) return;
  p.answers[slot * p.width + step] = ids[r];
  p.drawn[slot] = drawn + 1;
}

}  // namespace illume_fast::cuda
