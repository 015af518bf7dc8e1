#include "illume_fast/plan_ahead.h"

#include "plan_arguments.h"

namespace illume_fast {

void register_cuda_plan_ahead([[maybe_unused]] py::module_& m) {
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_plan_feed_ahead",
         [](Address answers, int64_t width, Address draw_step, int64_t draws, Address drawn, int64_t slots,
            Address slot_of, Address start, Address window, int64_t streams, int64_t most, int64_t filler,
            int64_t page_size, Address ids, Address positions, Address stream_of, Address last, int64_t tokens,
            Address stream) {
           return cuda::plan_feed_ahead(plan_tables(answers, width, draw_step, draws, drawn, slots),
                                        pointer<const int64_t>(slot_of), pointer<const int64_t>(start),
                                        pointer<const int64_t>(window), streams, most, filler, page_size,
                                        pointer<int64_t>(ids), pointer<int64_t>(positions),
                                        pointer<int64_t>(stream_of), pointer<int64_t>(last), tokens, pointer(stream));
         });
  define(m, "cuda_plan_note",
         [](Address made, int64_t slots, int64_t width, Address order, Address ahead, Address ids, int64_t count,
            Address stream) {
           return cuda::plan_note(pointer<int64_t>(made), slots, width, pointer<const int64_t>(order),
                                  pointer<const int64_t>(ahead), pointer<const int64_t>(ids), count, pointer(stream));
         });
  define(m, "cuda_plan_accept",
         [](Address answers, int64_t width, Address draw_step, int64_t draws, Address drawn, int64_t slots,
            Address order, Address window, Address made, int64_t rows, int64_t most, Address stream) {
           return cuda::plan_accept(plan_tables(answers, width, draw_step, draws, drawn, slots),
                                    pointer<const int64_t>(order), pointer<const int64_t>(window),
                                    pointer<int64_t>(made), rows, most, pointer(stream));
         });
#endif
}

}  // namespace illume_fast
