// What the GPU does with the plans of a batch, run on an emulated block, beside what the CPU does.
#include "cuda/plans.h"
#include "plan_steps.cuh"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void feed_on_gpu(Plans& plans, const Buffer<int64_t>& slot_of, const Buffer<int64_t>& start, int64_t tokens, Fed& out) {
  cuda::FeedShared shared;
  emulated::run_cluster(1, cuda::kFeedThreads, {reinterpret_cast<char*>(&shared)}, [&] {
    cuda::feed_block(plans.tables(), slot_of.get(), start.get(), nullptr, slot_of.size(), 1, kFiller, kPageSize,
                     {out.ids.get(), out.positions.get(), out.stream_of.get(), out.last.get()}, tokens, shared);
  });
}

void feeding(int64_t streams, int64_t room) {
  Random random(static_cast<uint64_t>(streams));
  Plans plans(40, random);
  Buffer<int64_t> slot_of(streams), start(streams);
  int64_t tokens = room;
  for (int64_t s = 0; s < streams; ++s) {
    slot_of[s] = 1 + below(random, 39);
    start[s] = below(random, 90);
    const int64_t* next = &plans.draw_step[slot_of[s] * kDraws + plans.drawn[slot_of[s]]];
    tokens += next[0] - next[-1];
  }
  Fed expected(tokens, streams), actual(tokens, streams);
  CHECK(plan_feed(plans.tables(), slot_of.get(), start.get(), streams, kFiller, kPageSize, expected.ids.get(),
                  expected.positions.get(), expected.stream_of.get(), expected.last.get(), tokens) == -1);
  feed_on_gpu(plans, slot_of, start, tokens, actual);
  for (int64_t t = 0; t < tokens; ++t) {
    CHECK(actual.ids[t] == expected.ids[t] && actual.positions[t] == expected.positions[t]);
    CHECK(actual.stream_of[t] == expected.stream_of[t]);
  }
  for (int64_t s = 0; s < streams; ++s) CHECK(actual.last[s] == expected.last[s]);
}

// Streams that cannot go on stand nowhere, and the others where they would.
void feeding_what_cannot_be_fed() {
  Random random(9);
  Plans plans(4, random);
  plans.drawn[1] = kDraws;
  plans.drawn[2] = plans.drawn[3] = 1;
  for (int64_t slot = 2; slot < 4; ++slot) plans.draw_step[slot * kDraws] = 0, plans.draw_step[slot * kDraws + 1] = 2;
  Buffer<int64_t> slot_of(6), start(6);
  for (int64_t s = 0; s < 6; ++s) slot_of[s] = std::vector<int64_t>{-1, 2, 0, 1, 4, 3}[static_cast<size_t>(s)], start[s] = 7;
  for (const int64_t tokens : {8, 7}) {
    Fed fed(tokens, 6);
    feed_on_gpu(plans, slot_of, start, tokens, fed);
    for (const int64_t t : {0, 3, 4, 5}) {
      CHECK(fed.ids[t] == 0 && fed.positions[t] == -1 && fed.stream_of[t] == kFiller);
    }
    CHECK(fed.positions[1] == 7 && fed.positions[2] == 8 && fed.stream_of[1] == 1 && fed.stream_of[2] == 1);
    CHECK(fed.last[0] == 0 && fed.last[1] == 2 && fed.last[2] == 3 && fed.last[4] == 5);
    CHECK(fed.last[5] == (tokens == 8 ? 7 : tokens));
    CHECK(fed.positions[6] == (tokens == 8 ? 7 : -1));
  }
}

void drawing_and_recording() {
  Random random(5);
  const int64_t slots = 9, rows = slots + 2;
  Plans plans(slots, random);
  plans.drawn[3] = kDraws;
  Buffer<int64_t> kind(slots * kDraws), top_k(slots * kKinds), from(slots), until(slots), seed(slots), order(rows);
  Buffer<float> temperature(slots * kKinds), top_p(slots * kKinds), min_p(slots * kKinds), guidance(slots * kKinds);
  for (int64_t i = 0; i < kind.size(); ++i) kind[i] = below(random, kKinds);
  for (int64_t i = 0; i < top_k.size(); ++i) top_k[i] = below(random, 99);
  uint64_t number = 0;
  for (Buffer<float>* numbers : {&temperature, &top_p, &min_p, &guidance}) fill(*numbers, ++number);
  for (int64_t slot = 0; slot < slots; ++slot) from[slot] = below(random, 6), until[slot] = 6, seed[slot] = slot * 77;
  const PlanSettings settings{kind.get(),     kKinds,     temperature.get(), top_k.get(), top_p.get(), min_p.get(),
                              guidance.get(), from.get(), until.get(),       seed.get()};
  for (int64_t r = 0; r < rows; ++r) order[r] = r < slots ? r : slots - 1;

  struct Rows {
    Buffer<int64_t> step{rows}, seed{rows}, top_k{rows};
    Buffer<float> guidance{rows}, temperature{rows}, top_p{rows}, min_p{rows};
    DrawParameters out() {
      return {step.get(), seed.get(), guidance.get(), temperature.get(), top_k.get(), top_p.get(), min_p.get()};
    }
  } actual;
  for (int64_t r = 0; r < rows; ++r) cuda::draw_row(plans.tables(), settings, order.get(), nullptr, actual.out(), r);
  for (int64_t r = 0; r < rows; ++r) {
    if (r == 3) {
      CHECK(std::isnan(actual.temperature[r]) && std::isnan(actual.guidance[r]) && actual.step[r] == 0);
      continue;
    }
    Rows expected;
    CHECK(plan_draw(plans.tables(), settings, order.get() + r, nullptr, 1, expected.out()) == -1);
    CHECK(actual.step[r] == expected.step[0] && actual.seed[r] == expected.seed[0]);
    CHECK(actual.top_k[r] == expected.top_k[0] && actual.temperature[r] == expected.temperature[0]);
    CHECK(actual.top_p[r] == expected.top_p[0] && actual.min_p[r] == expected.min_p[0]);
    CHECK(actual.guidance[r] == expected.guidance[0]);
  }
  Buffer<int64_t> ahead(rows);
  for (int64_t r = 0; r < rows; ++r) ahead[r] = kDraws - 1 - plans.drawn[order[r]];
  cuda::draw_row(plans.tables(), settings, order.get(), ahead.get(), actual.out(), 1);
  CHECK(actual.step[1] == plans.draw_step[kDraws + kDraws - 1]);
  ahead[1] += 1;
  cuda::draw_row(plans.tables(), settings, order.get(), ahead.get(), actual.out(), 1);
  CHECK(std::isnan(actual.temperature[1]));

  Buffer<int64_t> ids(rows), latest(slots);
  for (int64_t r = 0; r < rows; ++r) ids[r] = 100 + r;
  Random again(5);
  Plans before(slots, again);
  before.drawn[3] = kDraws;
  for (int64_t r = 0; r < rows; ++r) cuda::record_row(plans.tables(), order.get(), ids.get(), latest.get(), r);
  Buffer<int64_t> latest_there(slots);
  CHECK(plan_record(before.tables(), order.get(), ids.get(), 3, latest_there.get()) == -1);
  CHECK(plan_record(before.tables(), order.get() + 4, ids.get() + 4, rows - 4, latest_there.get()) == -1);
  for (int64_t i = 0; i < before.answers.size(); ++i) CHECK(plans.answers[i] == before.answers[i]);
  for (int64_t slot = 0; slot < slots; ++slot) {
    CHECK(plans.drawn[slot] == before.drawn[slot]);
    CHECK(latest[slot] == (slot == 3 ? -1 : latest_there[slot]));
  }
}

}  // namespace

int main() {
  for (const int64_t streams : {1, 5, 32, 255, 256, 257, 700}) feeding(streams, streams % 7);
  feeding_what_cannot_be_fed();
  drawing_and_recording();
  return report();
}
