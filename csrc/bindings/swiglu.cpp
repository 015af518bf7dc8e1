#include "illume_fast/swiglu.h"

#include "bindings.h"

namespace illume_fast {

void register_swiglu(py::module_& m) {
  define(m, "swiglu_forward",
        [](int dtype, Address gate, int64_t gate_stride, Address up, int64_t up_stride, Address out, int64_t rows,
           int64_t columns) {
          swiglu_forward(static_cast<DType>(dtype), pointer(gate), gate_stride, pointer(up), up_stride, pointer(out),
                         rows, columns);
        });
  define(m, "swiglu_backward",
        [](int dtype, Address grad, Address gate, int64_t gate_stride, Address up, int64_t up_stride, Address grad_gate,
           Address grad_up, int64_t rows, int64_t columns) {
          swiglu_backward(static_cast<DType>(dtype), pointer(grad), pointer(gate), gate_stride, pointer(up), up_stride,
                          pointer(grad_gate), pointer(grad_up), rows, columns);
        });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_swiglu_forward",
        [](int dtype, Address gate, int64_t gate_stride, Address up, int64_t up_stride, Address out, int64_t rows,
           int64_t columns, Address stream) {
          return cuda::swiglu_forward(static_cast<DType>(dtype), pointer(gate), gate_stride, pointer(up), up_stride,
                                      pointer(out), rows, columns, pointer(stream));
        });
  define(m, "cuda_swiglu_backward",
        [](int dtype, Address grad, Address gate, int64_t gate_stride, Address up, int64_t up_stride, Address grad_gate,
           Address grad_up, int64_t rows, int64_t columns, Address stream) {
          return cuda::swiglu_backward(static_cast<DType>(dtype), pointer(grad), pointer(gate), gate_stride,
                                       pointer(up), up_stride, pointer(grad_gate), pointer(grad_up), rows, columns,
                                       pointer(stream));
        });
#endif
}

}  // namespace illume_fast
