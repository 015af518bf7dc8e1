#include "illume_fast/rms_norm.h"

#include "bindings.h"

namespace illume_fast {

void register_rms_norm(py::module_& m) {
  define(m, "rms_norm_forward",
        [](int dtype, Address x, int64_t x_stride, Address residual, int64_t residual_stride, Address weight, float eps,
           Address sum, Address out, int64_t rows, int64_t columns) {
          rms_norm_forward(static_cast<DType>(dtype), pointer(x), x_stride, pointer(residual), residual_stride,
                           pointer(weight), eps, pointer(sum), pointer(out), rows, columns);
        });
  define(m, "rms_norm_backward",
        [](int dtype, Address grad, Address grad_sum, Address x, Address weight, float eps, Address grad_x,
           Address grad_weight, int64_t rows, int64_t columns) {
          rms_norm_backward(static_cast<DType>(dtype), pointer(grad), pointer(grad_sum), pointer(x), pointer(weight),
                            eps, pointer(grad_x), pointer(grad_weight), rows, columns);
        });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  m.attr("cuda_rms_norm_parts") = cuda::kRmsNormParts;
  define(m, "cuda_rms_norm_forward",
        [](int dtype, Address x, int64_t x_stride, Address residual, int64_t residual_stride, Address weight, float eps,
           Address sum, Address out, int64_t rows, int64_t columns, Address stream) {
          return cuda::rms_norm_forward(static_cast<DType>(dtype), pointer(x), x_stride, pointer(residual),
                                        residual_stride, pointer(weight), eps, pointer(sum), pointer(out), rows,
                                        columns, pointer(stream));
        });
  define(m, "cuda_rms_norm_backward",
        [](int dtype, Address grad, Address grad_sum, Address x, Address weight, float eps, Address grad_x,
           Address grad_weight, Address inverses, Address parts, int64_t rows, int64_t columns, Address stream) {
          return cuda::rms_norm_backward(static_cast<DType>(dtype), pointer(grad), pointer(grad_sum), pointer(x),
                                         pointer(weight), eps, pointer(grad_x), pointer(grad_weight),
                                         pointer<float>(inverses), pointer<float>(parts), rows, columns,
                                         pointer(stream));
        });
#endif
}

}  // namespace illume_fast
