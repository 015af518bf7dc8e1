// What the GPU does in steps that guess ahead, run on an emulated block, beside what the CPU does.
#include "cuda/plans.h"
#include "plan_ahead.cuh"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

// Plans of unequal length with drafts among few ids, so that many are right; each slot has a window but the first.
struct Ahead : Plans {
  int64_t width;
  Buffer<int64_t> window, made;

  Ahead(int64_t count, int64_t most, uint64_t seed) : Ahead(count, most, Random(seed)) {}
  Ahead(int64_t count, int64_t most, Random random)
      : Plans(count, random), width(most), window(count), made(count * most) {
    for (int64_t i = 0; i < answers.size(); ++i) answers[i] = below(random, 3) - 1;
    for (int64_t i = 0; i < made.size(); ++i) made[i] = below(random, 3) - 1;
    for (int64_t slot = 0; slot < slots; ++slot) {
      const int64_t length = 2 + below(random, kDraws - 1);
      for (int64_t d = length; d < kDraws; ++d) draw_step[slot * kDraws + d] = 0;
      if (slot > 0) drawn[slot] = 1 + below(random, length - 1);
      window[slot] = 1 + below(random, std::min(width, length - std::max<int64_t>(drawn[slot], 1)));
    }
  }
};

void feed_on_gpu(Ahead& plans, const Buffer<int64_t>& slot_of, const Buffer<int64_t>& start, int64_t tokens, Fed& out) {
  cuda::FeedShared shared;
  emulated::run_cluster(1, cuda::kFeedThreads, {reinterpret_cast<char*>(&shared)}, [&] {
    cuda::feed_block(plans.tables(), slot_of.get(), start.get(), plans.window.get(), slot_of.size(), plans.width,
                     kFiller, kPageSize, {out.ids.get(), out.positions.get(), out.stream_of.get(), out.last.get()},
                     tokens, shared);
  });
}

void feeding(int64_t streams, int64_t width, int64_t room) {
  Ahead plans(40, width, static_cast<uint64_t>(streams * 10 + width));
  Random random(static_cast<uint64_t>(width));
  Buffer<int64_t> slot_of(streams), start(streams);
  int64_t tokens = room;
  for (int64_t s = 0; s < streams; ++s) {
    slot_of[s] = 1 + below(random, 39);
    start[s] = below(random, 90);
    const int64_t* next = &plans.draw_step[slot_of[s] * kDraws + plans.drawn[slot_of[s]]];
    tokens += next[plans.window[slot_of[s]] - 1] - next[-1];
  }
  Fed expected(tokens, streams * width), actual(tokens, streams * width);
  CHECK(plan_feed_ahead(plans.tables(), slot_of.get(), start.get(), plans.window.get(), streams, width, kFiller,
                        kPageSize, expected.ids.get(), expected.positions.get(), expected.stream_of.get(),
                        expected.last.get(), tokens) == -1);
  feed_on_gpu(plans, slot_of, start, tokens, actual);
  for (int64_t t = 0; t < tokens; ++t) {
    CHECK(actual.ids[t] == expected.ids[t] && actual.positions[t] == expected.positions[t]);
    CHECK(actual.stream_of[t] == expected.stream_of[t]);
  }
  for (int64_t i = 0; i < streams * width; ++i) CHECK(actual.last[i] == expected.last[i]);
}

// Slots 1 to 5 cannot make the draws that their windows ask for; slot 6 can, at step 9.
Ahead with_bad_windows() {
  Ahead plans(8, 3, 11);
  for (int64_t slot = 1; slot < 8; ++slot) {
    plans.drawn[slot] = plans.window[slot] = 2;
    for (int64_t d = 0; d < kDraws; ++d) plans.draw_step[slot * kDraws + d] = 7 + d;
  }
  plans.window[1] = 0;
  plans.window[2] = 4;
  plans.drawn[3] = kDraws - 1;
  plans.draw_step[4 * kDraws + 3] = plans.draw_step[4 * kDraws + 2];
  plans.draw_step[5 * kDraws + 3] = kWidth + 1;
  return plans;
}

void feeding_what_cannot_be_fed() {
  Ahead plans = with_bad_windows();
  Buffer<int64_t> slot_of(9), start(9);
  const int64_t slots[] = {-1, 0, 1, 2, 3, 4, 5, 8, 6};
  for (int64_t s = 0; s < 9; ++s) slot_of[s] = slots[s], start[s] = 70;
  for (const int64_t tokens : {10, 9}) {
    Fed fed(tokens, 9 * 3);
    feed_on_gpu(plans, slot_of, start, tokens, fed);
    for (int64_t t = 0; t < 8; ++t) {
      CHECK(fed.ids[t] == 0 && fed.positions[t] == -1 && fed.stream_of[t] == kFiller);
      for (int64_t j = 0; j < 3; ++j) CHECK(fed.last[t * 3 + j] == t);
    }
    for (int64_t j = 0; j < 3; ++j) CHECK(fed.last[24 + j] == (tokens == 10 ? std::min<int64_t>(8 + j, 9) : tokens));
    CHECK(fed.positions[8] == (tokens == 10 ? 78 : -1));
  }
}

void noting() {
  const int64_t slots = 3, width = 2, count = 6;
  Buffer<int64_t> made(slots * width), order(count), ahead(count), ids(count);
  for (int64_t i = 0; i < made.size(); ++i) made[i] = 9;
  const int64_t places[][2] = {{2, 1}, {0, 0}, {-1, 0}, {3, 0}, {1, -1}, {1, 2}};
  for (int64_t r = 0; r < count; ++r) order[r] = places[r][0], ahead[r] = places[r][1], ids[r] = 100 + r;
  for (int64_t r = 0; r < count; ++r) {
    cuda::note_row(made.get(), slots, width, order.get(), ahead.get(), ids.get(), r);
  }
  for (int64_t i = 0; i < made.size(); ++i) CHECK(made[i] == (i == 5 ? 100 : i == 0 ? 101 : 9));
}

void same(Ahead& actual, Ahead& expected, int64_t slot) {
  CHECK(actual.drawn[slot] == expected.drawn[slot]);
  for (int64_t i = 0; i < kWidth; ++i) CHECK(actual.answers[slot * kWidth + i] == expected.answers[slot * kWidth + i]);
  for (int64_t j = 0; j < actual.width; ++j) {
    CHECK(actual.made[slot * actual.width + j] == expected.made[slot * actual.width + j]);
  }
}

void accept_on_gpu(Ahead& plans, const Buffer<int64_t>& order) {
  for (int64_t r = 0; r < order.size(); ++r) {
    cuda::accept_row(plans.tables(), order.get(), plans.window.get(), plans.made.get(), plans.width, r);
  }
}

void accepting(int64_t width, uint64_t seed) {
  Ahead expected(60, width, seed), actual(60, width, seed);
  Buffer<int64_t> order(60);
  for (int64_t r = 0; r < 60; ++r) order[r] = std::min<int64_t>(59 - r + 2, 59);  // the last slot thrice, 0 and 1 not
  CHECK(plan_accept(expected.tables(), order.get(), expected.window.get(), expected.made.get(), 60, width) == -1);
  accept_on_gpu(actual, order);
  int64_t several = 0;
  for (int64_t slot = 0; slot < 60; ++slot) {
    same(actual, expected, slot);
    several += width > 1 && actual.made[slot * width + 1] != kNotTaken;
  }
  CHECK(width == 1 || several > 0);
}

void accepting_what_cannot_be_accepted() {
  Ahead actual = with_bad_windows(), before = with_bad_windows();
  Buffer<int64_t> order(9);
  const int64_t slots[] = {0, 1, 2, 3, 4, 5, 7, -1, 8};
  for (int64_t r = 0; r < 9; ++r) order[r] = slots[r];
  accept_on_gpu(actual, order);
  for (int64_t slot = 0; slot < 6; ++slot) {
    before.answers[slot * kWidth] = before.made[slot * 3] = -1;
    before.made[slot * 3 + 1] = before.made[slot * 3 + 2] = kNotTaken;
  }
  for (int64_t slot = 0; slot < 8; ++slot) same(actual, before, slot);
}

}  // namespace

int main() {
  for (const int64_t streams : {1, 8, 255, 257, 600}) {
    for (const int64_t width : {1, 4, 6}) feeding(streams, width, streams % 7);
  }
  feeding_what_cannot_be_fed();
  noting();
  for (const int64_t width : {1, 2, 4, 6}) accepting(width, static_cast<uint64_t>(width));
  accepting_what_cannot_be_accepted();
  return report();
}
