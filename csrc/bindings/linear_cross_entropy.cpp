#include "illume_fast/linear_cross_entropy.h"

#include "bindings.h"

namespace illume_fast {

void register_linear_cross_entropy(py::module_& m) {
  define(m, "linear_cross_entropy", [](int dtype, Address x, int64_t x_stride, int64_t rows, Address weight,
                                   int64_t weight_stride, Address labels, Address losses, Address normalizers,
                                   int64_t outputs, int64_t inputs) {
    return linear_cross_entropy(static_cast<DType>(dtype), pointer(x), x_stride, rows, pointer(weight), weight_stride,
                                pointer<int64_t>(labels), pointer<float>(losses), pointer<float>(normalizers), outputs,
                                inputs);
  });
  define(m, "linear_cross_entropy_logit_gradients",
        [](int dtype, Address x, int64_t x_stride, int64_t rows, Address weight, int64_t weight_stride, Address labels,
           Address normalizers, Address grads, Address out, int64_t first, int64_t outputs, int64_t inputs) {
          linear_cross_entropy_logit_gradients(static_cast<DType>(dtype), pointer(x), x_stride, rows, pointer(weight),
                                               weight_stride, pointer<int64_t>(labels), pointer<float>(normalizers),
                                               pointer<float>(grads), pointer(out), first, outputs, inputs);
        });
}

}  // namespace illume_fast
