#include "illume_fast/codebook_ema.h"

#include "bindings.h"

namespace illume_fast {

void register_codebook_ema(py::module_& m) {
  define(m, "codebook_ema",
        [](int dtype, Address x, int64_t stride, Address ids, Address ends, Address order, Address counts, Address sums,
           int codebook_dtype, Address codebook, double decay, double eps, int64_t rows, int64_t size, int64_t codes) {
          return codebook_ema(static_cast<DType>(dtype), pointer(x), stride, pointer<int64_t>(ids),
                              pointer<int64_t>(ends), pointer<int64_t>(order), pointer<float>(counts),
                              pointer<float>(sums), static_cast<DType>(codebook_dtype), pointer(codebook), decay, eps,
                              rows, size, codes);
        });
}

}  // namespace illume_fast
