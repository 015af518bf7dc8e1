#include "illume_fast/code_statistics.h"

#include "bindings.h"

namespace illume_fast {

void register_code_statistics(py::module_& m) {
  m.def("code_statistics",
        [](int dtype, Address x, int64_t stride, Address ids, Address starts, Address order, Address counts,
           Address sums, int64_t rows, int64_t size, int64_t codes) {
          return code_statistics(static_cast<DType>(dtype), pointer(x), stride, pointer<int64_t>(ids),
                                 pointer<int64_t>(starts), pointer<int64_t>(order), pointer<float>(counts),
                                 pointer<float>(sums), rows, size, codes);
        });
}

}  // namespace illume_fast
