// Steps that guess ahead, on a GPU; see illume_fast/plan_ahead.h. What cannot go on leads to id -1 here, as in plan_steps.cuh.
#pragma once

#include "illume_fast/plan_ahead.h"
#include "plan_steps.cuh"

namespace illume_fast::cuda {

// An id without a place is dropped.
__device__ inline void note_row(int64_t* made, int64_t slots, int64_t width, const int64_t* order,
                                const int64_t* ahead, const int64_t* ids, int64_t r) {
  const int64_t slot = order[r], place = ahead[r];
  if (slot < 0 || slot >= slots || place < 0 || place >= width) return;
  made[slot * width + place] = ids[r];
}

// A slot whose window does not fit took -1, which its answer, full of drafts, is to show as well.
__device__ inline void refuse_row(const PlanTables& p, int64_t* own, int64_t width, int64_t slot) {
  for (int64_t j = 0; j < width; ++j) own[j] = j == 0 ? -1 : kNotTaken;
  if (p.width > 0) p.answers[slot * p.width] = -1;
}

__device__ inline void accept_row(const PlanTables& p, const int64_t* order, const int64_t* window, int64_t* made,
                                  int64_t width, int64_t r) {
  const int64_t slot = order[r];
  if (slot < 0 || slot >= p.slots - 1) return;
  const int64_t size = draws_at_once(p, window, width, slot);
  const int64_t* step = size > 0 ? next_draws(p, slot, size) : nullptr;
  int64_t *answer = p.answers + slot * p.width, *own = made + slot * width;
  if (step == nullptr || step[size - 1] >= p.width) return refuse_row(p, own, width, slot);
  const int64_t newest = own[size - 1];
  int64_t taken = 0;
  bool agrees = true;
  for (int64_t j = 0; j < width; ++j) {
    if (j < size) {
      const int64_t id = own[j], draft = answer[step[j]];
      answer[step[j]] = id;
      taken += agrees;
      if (agrees) {
        agrees = id == draft && id >= 0;
        continue;
      }
    }
    own[j] = kNotTaken;
  }
  // behind the plan's end the steps do not rise any more
  const int64_t left = p.draws - p.drawn[slot], end = size + taken < left ? size + taken : left;
  for (int64_t j = size; j < end && step[j] > step[j - 1] && step[j] < p.width; ++j) answer[step[j]] = newest;
  p.drawn[slot] += taken;
}

}  // namespace illume_fast::cuda
