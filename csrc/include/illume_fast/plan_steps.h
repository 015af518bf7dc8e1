// Where the rows of a batch stand in their plans: what a decoding step feeds, how it draws, and what it writes down. Each
// row has a slot, a line of every table; the last slot belongs to nobody and fills batches up.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"

namespace illume_fast {

// answers [slots, width]: ids, forced ones included. draw_step [slots, draws]: the step of the answer at which draw d is
// made. drawn [slots]: draws made so far.
struct PlanTables {
  int64_t* answers;
  int64_t width;
  const int64_t* draw_step;
  int64_t draws;
  int64_t* drawn;
  int64_t slots;
};

// The tokens between the last draw and the next of each stream s, which writes the answer of slot slot_of[s] from position
// start[s] on: ids (0 for a bad draw's -1), positions, streams [tokens], and last [streams], the place of each stream's
// newest. Places left over get id 0, stream `filler` and positions from 0 on that stay below `page_size`. Returns -1, or the
// first stream for whose tokens there is no room or no plan.
int64_t plan_feed(const PlanTables& plan, const int64_t* slot_of, const int64_t* start, int64_t streams, int64_t filler,
                  int64_t page_size, int64_t* ids, int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens);

// Of each kind of draw, [slots, kinds], and of each slot.
struct PlanSettings {
  const int64_t* draw_kind;  // [slots, draws]
  int64_t kinds;
  const float* temperature;
  const int64_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* guidance;
  const int64_t* guidance_from;  // [slots]: the first step with guidance, and the first without it again
  const int64_t* guidance_until;
  const int64_t* seed;
};

// One entry per row of a draw.
struct DrawParameters {
  int64_t* step;
  int64_t* seed;
  float* guidance;
  float* temperature;
  int64_t* top_k;
  float* top_p;
  float* min_p;
};

// How a draw of each slot in `order` [rows] is made: the next one, or that many draws behind it as `ahead` [rows] says, which
// may be null. Returns -1, or the first row without such a draw.
int64_t plan_draw(const PlanTables& plan, const PlanSettings& settings, const int64_t* order, const int64_t* ahead,
                  int64_t rows, const DrawParameters& out);

// Writes the ids drawn by the slots in `order` into their answers and into latest [slots], and counts the draws, except for
// the last slot's.
int64_t plan_record(const PlanTables& plan, const int64_t* order, const int64_t* ids, int64_t rows, int64_t* latest);

namespace cuda {

// The same on a GPU. Each returns 0 or CUDA's error code, of the launch alone; streams and rows are not 0. What the CPU
// tells of gets id -1 in the end, and nothing is written out of bounds: such a stream feeds one token (or, where its tokens
// do not fit, as many as do) at position -1 of stream `filler`, and `last` is -1 where they do not fit; such a row draws at
// temperature NaN; and such a slot gets -1 in `latest` alone. Only the last slot may be there several times in a record.
int plan_feed(const PlanTables& plan, const int64_t* slot_of, const int64_t* start, int64_t streams, int64_t filler,
              int64_t page_size, int64_t* ids, int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens,
              Stream stream);
// `ahead` [rows] may be null: the next draw of a slot, or that many draws behind it.
int plan_draw(const PlanTables& plan, const PlanSettings& settings, const int64_t* order, const int64_t* ahead,
              int64_t rows, const DrawParameters& out, Stream stream);
int plan_record(const PlanTables& plan, const int64_t* order, const int64_t* ids, int64_t rows, int64_t* latest,
                Stream stream);

}  // namespace cuda

}  // namespace illume_fast
