#include "illume_fast/nearest_code.h"

#include <array>

#include <pybind11/stl.h>

#include "bindings.h"

namespace illume_fast {

void register_nearest_code(py::module_& m) {
  define(m, "nearest_code_pack", [](int metric, Address codes, int64_t count, int64_t size, Address panels,
                                Address pairs, Address offsets, Address longest, Address errors, Address center) {
    nearest_code_pack(static_cast<Metric>(metric), pointer<float>(codes), count, size, pointer<float>(panels),
                      pointer<uint32_t>(pairs), pointer<float>(offsets), pointer<float>(longest),
                      pointer<float>(errors), pointer<float>(center));
  });
  define(m, "nearest_code", [](int metric, int dtype, Address x, int64_t outer, int64_t outer_stride, int64_t inner,
                           int64_t inner_stride, int64_t stride, Address codes, int64_t count, int64_t size,
                           Address panels, Address pairs, Address offsets, Address longest, Address errors,
                           Address center, Address ids) {
    const PackedCodes codebook{pointer<float>(codes),    count,
                               size,                     pointer<float>(panels),
                               pointer<uint32_t>(pairs), pointer<float>(offsets),
                               pointer<float>(longest),  pointer<float>(errors),
                               pointer<float>(center)};
    return nearest_code(static_cast<Metric>(metric), static_cast<DType>(dtype), pointer(x), outer, outer_stride, inner,
                        inner_stride, stride, codebook, pointer<int64_t>(ids));
  });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  // rows: outer, its stride, inner, its stride, stride; shape: codes, their size, width, blocks
  define(m, "cuda_nearest_code",
        [](int metric, int dtype, Address x, const std::array<int64_t, 5>& rows, Address codes,
           const std::array<int64_t, 4>& shape, Address packed, Address offsets, Address longest, Address code_errors,
           Address center, float longest_of_all, Address rounded, Address lengths, Address errors, Address best,
           Address ids, Address stream) {
          const cuda::GpuCodes codebook{pointer<float>(codes),   shape[0],
                                        shape[1],                shape[2],
                                        shape[3],                pointer(packed),
                                        pointer<float>(offsets), pointer<float>(longest),
                                        pointer<float>(code_errors), pointer<float>(center),
                                        longest_of_all};
          const cuda::SearchRoom room{pointer(rounded), pointer<float>(lengths), pointer<float>(errors),
                                      pointer<float>(best)};
          return cuda::nearest_code(static_cast<Metric>(metric), static_cast<DType>(dtype), pointer(x), rows[0], rows[1],
                                    rows[2], rows[3], rows[4], codebook, room, pointer<int64_t>(ids), pointer(stream));
        });
#endif
}

}  // namespace illume_fast
