#include "illume_fast/gelu.h"

#include "bindings.h"

namespace illume_fast {

void register_gelu(py::module_& m) {
  define(m, "gelu_forward", [](int dtype, Address x, Address out, int64_t n, bool tanh) {
    gelu_forward(static_cast<DType>(dtype), pointer(x), pointer(out), n, tanh);
  });
  define(m, "gelu_backward", [](int dtype, Address grad, Address x, Address grad_x, int64_t n, bool tanh) {
    gelu_backward(static_cast<DType>(dtype), pointer(grad), pointer(x), pointer(grad_x), n, tanh);
  });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_gelu_forward", [](int dtype, Address x, Address out, int64_t n, bool tanh, Address stream) {
    return cuda::gelu_forward(static_cast<DType>(dtype), pointer(x), pointer(out), n, tanh, pointer(stream));
  });
  define(m, "cuda_gelu_backward",
        [](int dtype, Address grad, Address x, Address grad_x, int64_t n, bool tanh, Address stream) {
          return cuda::gelu_backward(static_cast<DType>(dtype), pointer(grad), pointer(x), pointer(grad_x), n, tanh,
                                     pointer(stream));
        });
#endif
}

}  // namespace illume_fast
