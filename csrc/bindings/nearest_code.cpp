#include "illume_fast/nearest_code.h"

#include "bindings.h"

namespace illume_fast {

void register_nearest_code(py::module_& m) {
  m.def("nearest_code_pack", [](int metric, Address codes, int64_t count, int64_t size, Address panels,
                                Address offsets, Address longest, Address center) {
    nearest_code_pack(static_cast<Metric>(metric), pointer<float>(codes), count, size, pointer<float>(panels),
                      pointer<float>(offsets), pointer<float>(longest), pointer<float>(center));
  });
  m.def("nearest_code", [](int metric, int dtype, Address x, int64_t outer, int64_t outer_stride, int64_t inner,
                           int64_t inner_stride, int64_t stride, Address codes, int64_t count, int64_t size,
                           Address panels, Address offsets, Address longest, Address center, Address ids) {
    const PackedCodes codebook{pointer<float>(codes),   count, size, pointer<float>(panels), pointer<float>(offsets),
                               pointer<float>(longest), pointer<float>(center)};
    return nearest_code(static_cast<Metric>(metric), static_cast<DType>(dtype), pointer(x), outer, outer_stride, inner,
                        inner_stride, stride, codebook, pointer<int64_t>(ids));
  });
}

}  // namespace illume_fast
