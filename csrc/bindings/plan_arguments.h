// What the bindings of the plans' kernels share: addresses and sizes as structs, for the CPU and for a GPU.
#pragma once

#include "bindings.h"
#include "illume_fast/plan_steps.h"

namespace illume_fast {

inline PlanTables plan_tables(Address answers, int64_t width, Address draw_step, int64_t draws, Address drawn,
                              int64_t slots) {
  return {pointer<int64_t>(answers), width, pointer<const int64_t>(draw_step), draws, pointer<int64_t>(drawn), slots};
}

inline PlanSettings plan_settings(Address draw_kind, int64_t kinds, Address temperature, Address top_k, Address top_p,
                                  Address min_p, Address guidance, Address guidance_from, Address guidance_until,
                                  Address seed) {
  return {pointer<const int64_t>(draw_kind), kinds,
          pointer<const float>(temperature), pointer<const int64_t>(top_k),
          pointer<const float>(top_p),       pointer<const float>(min_p),
          pointer<const float>(guidance),    pointer<const int64_t>(guidance_from),
          pointer<const int64_t>(guidance_until), pointer<const int64_t>(seed)};
}

inline DrawParameters draw_parameters(Address step, Address seed, Address guidance, Address temperature, Address top_k,
                                      Address top_p, Address min_p) {
  return {pointer<int64_t>(step),        pointer<int64_t>(seed),  pointer<float>(guidance),
          pointer<float>(temperature),   pointer<int64_t>(top_k), pointer<float>(top_p),
          pointer<float>(min_p)};
}

}  // namespace illume_fast
