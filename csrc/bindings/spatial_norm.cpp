#include "illume_fast/spatial_norm.h"

#include "bindings.h"

namespace illume_fast {

void register_spatial_norm(py::module_& m) {
  define(m, "spatial_norm",
        [](Address x, Address weight, Address bias, Address scale, Address shift, int64_t cell_stride, Address out,
           int64_t batch, int64_t rows, int64_t columns, int64_t channels, int64_t code_rows, int64_t code_columns,
           int64_t groups, float eps, bool silu) {
          spatial_norm({pointer<float>(x), pointer<float>(weight), pointer<float>(bias), pointer<float>(scale),
                        pointer<float>(shift), cell_stride, pointer<float>(out), batch, rows, columns, channels,
                        code_rows, code_columns, groups, eps, silu});
        });
}

}  // namespace illume_fast
