// What the tests of the GPU's plan kernels share: random plans, and what a step feeds.
#pragma once

#include <algorithm>

#include "check.h"
#include "illume_fast/plan_steps.h"

namespace illume_fast::testing {

constexpr int64_t kWidth = 12, kDraws = 7, kKinds = 2, kFiller = 1000, kPageSize = 4;

inline int64_t below(Random& random, int64_t n) { return static_cast<int64_t>((random(0.5f) + 0.5f) * static_cast<float>(n)) % n; }

// Random plans; the last slot fills batches up, and slot 0 has made no draw yet.
struct Plans {
  int64_t slots;
  Buffer<int64_t> answers, draw_step, drawn;

  Plans(int64_t count, Random& random)
      : slots(count), answers(count * kWidth), draw_step(count * kDraws), drawn(count) {
    for (int64_t i = 0; i < answers.size(); ++i) answers[i] = below(random, 50) - 1;
    for (int64_t slot = 0; slot < slots; ++slot) {
      for (int64_t d = 0, step = 0; d < kDraws; ++d, step += 1 + below(random, 2)) {
        draw_step[slot * kDraws + d] = std::min(step, kWidth - kDraws + d);
      }
      drawn[slot] = slot == 0 ? 0 : 1 + below(random, kDraws - 1);
    }
  }
  PlanTables tables() { return {answers.get(), kWidth, draw_step.get(), kDraws, drawn.get(), slots}; }
};

struct Fed {
  Buffer<int64_t> ids, positions, stream_of, last;
  Fed(int64_t tokens, int64_t streams) : ids(tokens), positions(tokens), stream_of(tokens), last(streams) {}
};

}  // namespace illume_fast::testing
