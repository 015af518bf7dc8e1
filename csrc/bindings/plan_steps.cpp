#include "plan_arguments.h"

namespace illume_fast {

void register_plan_steps(py::module_& m) {
  define(m, "plan_feed",
         [](Address answers, int64_t width, Address draw_step, int64_t draws, Address drawn, int64_t slots,
            Address slot_of, Address start, int64_t streams, int64_t filler, int64_t page_size, Address ids,
            Address positions, Address stream_of, Address last, int64_t tokens) {
           return plan_feed(plan_tables(answers, width, draw_step, draws, drawn, slots), pointer<const int64_t>(slot_of),
                            pointer<const int64_t>(start), streams, filler, page_size, pointer<int64_t>(ids),
                            pointer<int64_t>(positions), pointer<int64_t>(stream_of), pointer<int64_t>(last), tokens);
         });
  define(m, "plan_draw",
         [](Address answers, int64_t width, Address draw_step, int64_t draws, Address drawn, int64_t slots,
            Address draw_kind, int64_t kinds, Address temperature, Address top_k, Address top_p, Address min_p,
            Address guidance, Address guidance_from, Address guidance_until, Address seed, Address order,
            Address ahead, int64_t rows, Address step_out, Address seed_out, Address guidance_out,
            Address temperature_out, Address top_k_out, Address top_p_out, Address min_p_out) {
           const PlanSettings settings = plan_settings(draw_kind, kinds, temperature, top_k, top_p, min_p, guidance,
                                                       guidance_from, guidance_until, seed);
           return plan_draw(plan_tables(answers, width, draw_step, draws, drawn, slots), settings,
                            pointer<const int64_t>(order), pointer<const int64_t>(ahead), rows,
                            draw_parameters(step_out, seed_out, guidance_out, temperature_out, top_k_out, top_p_out,
                                            min_p_out));
         });
  define(m, "plan_record",
         [](Address answers, int64_t width, Address draw_step, int64_t draws, Address drawn, int64_t slots, Address order,
            Address ids, int64_t rows, Address latest) {
           return plan_record(plan_tables(answers, width, draw_step, draws, drawn, slots), pointer<const int64_t>(order),
                              pointer<const int64_t>(ids), rows, pointer<int64_t>(latest));
         });
}

}  // namespace illume_fast
