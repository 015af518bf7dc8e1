// A decoding step that guesses: the next draws of each row are fed as drafts and made anew, all at once. The tables are those
// of plan_steps.h; drafts stand in `answers`, where the draws are going to stand.
#pragma once

#include <cstdint>

#include "illume_fast/plan_steps.h"

namespace illume_fast {

constexpr int64_t kNotTaken = -2;

// As plan_feed, for draws drawn[slot] to drawn[slot] + window[slot] - 1 of each stream's slot: the tokens from its last draw
// up to the last of these, drafts included. last [streams, width] holds the place of the newest token before each of these
// draws, those behind the window that of its end. Returns -1, or the first stream for whose tokens there is no room or no
// plan, or whose window is not from 1 to `width`.
int64_t plan_feed_ahead(const PlanTables& plan, const int64_t* slot_of, const int64_t* start, const int64_t* window,
                        int64_t streams, int64_t width, int64_t filler, int64_t page_size, int64_t* ids,
                        int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens);

// Writes ids [count] into made [slots, width], each at (order, ahead). Returns -1, or the first that has no place there.
int64_t plan_note(int64_t* made, int64_t slots, int64_t width, const int64_t* order, const int64_t* ahead,
                  const int64_t* ids, int64_t count);

// Of the draws `made` by each slot of `order` [rows] takes the first, and each one more as long as the draw before it was
// what its draft said; counts them, and leaves kNotTaken in `made` instead of the others. All draws become what stands in
// the answer, so the others are the next drafts; behind them the last is repeated as a draft as often as draws were taken.
// Nothing is done for the last slot. Returns -1, or the first row whose window is not from 1 to `width` or leaves its plan.
int64_t plan_accept(const PlanTables& plan, const int64_t* order, const int64_t* window, int64_t* made, int64_t rows,
                    int64_t width);

namespace cuda {

// The same on a GPU. Each returns 0 or CUDA's error code, of the launch alone; streams, count and rows are not 0. What the
// CPU tells of gets id -1 in the end, and nothing is written out of bounds: such a stream is fed as `plan_feed` feeds it,
// with the same `last` for all its draws; an id without a place is dropped; and of such a slot -1 alone is taken, which its
// answer shows in its first place.
int plan_feed_ahead(const PlanTables& plan, const int64_t* slot_of, const int64_t* start, const int64_t* window,
                    int64_t streams, int64_t width, int64_t filler, int64_t page_size, int64_t* ids,
                    int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens, Stream stream);
int plan_note(int64_t* made, int64_t slots, int64_t width, const int64_t* order, const int64_t* ahead,
              const int64_t* ids, int64_t count, Stream stream);
int plan_accept(const PlanTables& plan, const int64_t* order, const int64_t* window, int64_t* made, int64_t rows,
                int64_t width, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
