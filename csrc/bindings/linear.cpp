#include "illume_fast/linear.h"

#include "bindings.h"

namespace illume_fast {

void register_linear(py::module_& m) {
  define(m, "linear", [](int dtype, Address x, int64_t x_stride, int64_t rows, Address weight, int64_t weight_stride,
                     Address bias, Address out, int64_t outputs, int64_t inputs) {
    linear(static_cast<DType>(dtype), pointer(x), x_stride, rows, pointer(weight), weight_stride, pointer(bias),
           pointer(out), outputs, inputs);
  });
}

}  // namespace illume_fast
