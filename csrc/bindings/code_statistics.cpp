#include "illume_fast/code_statistics.h"

#include "bindings.h"

namespace illume_fast {

void register_code_statistics(py::module_& m) {
  define(m, "code_statistics",
        [](int dtype, Address x, int64_t stride, Address ids, Address ends, Address order, Address counts,
           Address sums, int64_t rows, int64_t size, int64_t codes) {
          return code_statistics(static_cast<DType>(dtype), pointer(x), stride, pointer<int64_t>(ids),
                                 pointer<int64_t>(ends), pointer<int64_t>(order), pointer<float>(counts),
                                 pointer<float>(sums), rows, size, codes);
        });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_code_statistics",
        [](int dtype, Address x, int64_t x_row, int64_t x_column, Address order, Address bounds, Address counts,
           Address sums, int64_t codes, int64_t size, Address stream) {
          return cuda::code_statistics(static_cast<DType>(dtype), pointer(x), x_row, x_column,
                                       pointer<int64_t>(order), pointer<int64_t>(bounds), pointer<float>(counts),
                                       pointer<float>(sums), codes, size, pointer(stream));
        });
#endif
}

}  // namespace illume_fast
