#include "illume_fast/plan_steps.h"

namespace illume_fast {
namespace {

// Whether slot `slot` has made a draw and has another to make.
bool is_under_way(const PlanTables& p, int64_t slot) {
  return slot >= 0 && slot < p.slots && p.drawn[slot] >= 1 && p.drawn[slot] < p.draws;
}

}  // namespace

int64_t plan_feed(const PlanTables& p, const int64_t* slot_of, const int64_t* start, int64_t streams, int64_t filler,
                  int64_t page_size, int64_t* ids, int64_t* positions, int64_t* stream_of, int64_t* last,
                  int64_t tokens) {
  int64_t t = 0;
  for (int64_t s = 0; s < streams; ++s) {
    const int64_t slot = slot_of[s];
    if (!is_under_way(p, slot)) return s;
    const int64_t* next = p.draw_step + slot * p.draws + p.drawn[slot];
    if (next[0] <= next[-1] || next[0] > p.width || t + next[0] - next[-1] > tokens) return s;
    for (int64_t step = next[-1]; step < next[0]; ++step, ++t) {
      const int64_t id = p.answers[slot * p.width + step];
      ids[t] = id < 0 ? 0 : id;
      positions[t] = start[s] + step;
      stream_of[t] = s;
    }
    last[s] = t - 1;
  }
  for (int64_t place = 0; t < tokens; ++t, ++place) {
    ids[t] = 0;
    positions[t] = place % page_size;
    stream_of[t] = filler;
  }
  return -1;
}

int64_t plan_draw(const PlanTables& p, const PlanSettings& s, const int64_t* order, const int64_t* ahead,
                  int64_t rows, const DrawParameters& out) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t slot = order[r];
    if (slot < 0 || slot >= p.slots) return r;
    const int64_t next = p.drawn[slot] + (ahead == nullptr ? 0 : ahead[r]);
    if (next < 0 || next >= p.draws) return r;
    const int64_t draw = slot * p.draws + next, kind = slot * s.kinds + s.draw_kind[draw];
    const int64_t step = p.draw_step[draw];
    const bool guided = s.guidance_from[slot] <= step && step < s.guidance_until[slot];
    out.step[r] = step;
    out.seed[r] = s.seed[slot];
    out.guidance[r] = guided ? s.guidance[kind] : 1.0f;
    out.temperature[r] = s.temperature[kind];
    out.top_k[r] = s.top_k[kind];
    out.top_p[r] = s.top_p[kind];
    out.min_p[r] = s.min_p[kind];
  }
  return -1;
}

int64_t plan_record(const PlanTables& p, const int64_t* order, const int64_t* ids, int64_t rows, int64_t* latest) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t slot = order[r];
    if (slot < 0 || slot >= p.slots || p.drawn[slot] >= p.draws) return r;
    latest[slot] = ids[r];
    if (slot == p.slots - 1) continue;
    p.answers[slot * p.width + p.draw_step[slot * p.draws + p.drawn[slot]]] = ids[r];
    ++p.drawn[slot];
  }
  return -1;
}

}  // namespace illume_fast
