#include "illume_fast/plan_ahead.h"

#include <algorithm>

namespace illume_fast {
namespace {

// Whether slot `slot` has made a draw and has at least window[slot] others to make, from 1 to `width`.
bool has_window(const PlanTables& p, const int64_t* window, int64_t width, int64_t slot) {
  return slot >= 0 && slot < p.slots && p.drawn[slot] >= 1 && window[slot] >= 1 && window[slot] <= width &&
         p.drawn[slot] + window[slot] <= p.draws;
}

}  // namespace

int64_t plan_feed_ahead(const PlanTables& p, const int64_t* slot_of, const int64_t* start, const int64_t* window,
                        int64_t streams, int64_t width, int64_t filler, int64_t page_size, int64_t* ids,
                        int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens) {
  int64_t t = 0;
  for (int64_t s = 0; s < streams; ++s) {
    const int64_t slot = slot_of[s];
    if (!has_window(p, window, width, slot)) return s;
    const int64_t* next = p.draw_step + slot * p.draws + p.drawn[slot];
    for (int64_t j = 0; j < width; ++j) {
      if (j < window[slot]) {
        if (next[j] <= next[j - 1] || next[j] > p.width || t + next[j] - next[j - 1] > tokens) return s;
        for (int64_t step = next[j - 1]; step < next[j]; ++step, ++t) {
          ids[t] = std::max<int64_t>(p.answers[slot * p.width + step], 0);
          positions[t] = start[s] + step;
          stream_of[t] = s;
        }
      }
      last[s * width + j] = t - 1;
    }
  }
  for (int64_t place = 0; t < tokens; ++t, ++place) {
    ids[t] = 0;
    positions[t] = place % page_size;
    stream_of[t] = filler;
  }
  return -1;
}

int64_t plan_note(int64_t* made, int64_t slots, int64_t width, const int64_t* order, const int64_t* ahead,
                  const int64_t* ids, int64_t count) {
  for (int64_t r = 0; r < count; ++r) {
    if (order[r] < 0 || order[r] >= slots || ahead[r] < 0 || ahead[r] >= width) return r;
    made[order[r] * width + ahead[r]] = ids[r];
  }
  return -1;
}

int64_t plan_accept(const PlanTables& p, const int64_t* order, const int64_t* window, int64_t* made, int64_t rows,
                    int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t slot = order[r];
    if (slot == p.slots - 1) continue;
    if (!has_window(p, window, width, slot)) return r;
    const int64_t* step = p.draw_step + slot * p.draws + p.drawn[slot];
    int64_t* answer = p.answers + slot * p.width;
    int64_t* own = made + slot * width;
    const int64_t size = window[slot], newest = own[size - 1];
    int64_t taken = 0;
    bool agrees = true;
    for (int64_t j = 0; j < size; ++j) {
      const int64_t id = own[j], draft = answer[step[j]];
      answer[step[j]] = id;
      taken += agrees;
      if (!agrees) own[j] = kNotTaken;
      agrees = agrees && id == draft && id >= 0;
    }
    std::fill(own + size, own + width, kNotTaken);
    // behind the plan's end the steps do not rise any more
    for (int64_t j = size; j < size + taken && p.drawn[slot] + j < p.draws && step[j] > step[j - 1]; ++j) {
      answer[step[j]] = newest;
    }
    p.drawn[slot] += taken;
  }
  return -1;
}

}  // namespace illume_fast
