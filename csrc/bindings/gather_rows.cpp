#include "illume_fast/gather_rows.h"

#include "bindings.h"

namespace illume_fast {

void register_gather_rows(py::module_& m) {
  define(m, "gather_rows",
         [](Address table, int64_t stride, int64_t rows, int64_t bytes, Address index, Address out, int64_t count) {
           return gather_rows(pointer(table), stride, rows, bytes, pointer<const int64_t>(index), pointer(out), count);
         });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_gather_rows",
         [](Address table, int64_t stride, int64_t rows, int64_t bytes, Address index, Address out, int64_t count,
            Address stream) {
           return cuda::gather_rows(pointer(table), stride, rows, bytes, pointer<const int64_t>(index), pointer(out),
                                    count, pointer(stream));
         });
#endif
}

}  // namespace illume_fast
