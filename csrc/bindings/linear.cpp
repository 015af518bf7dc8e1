#include "illume_fast/linear.h"

#include "bindings.h"

namespace illume_fast {
namespace {

LinearInput input(Address x, int64_t stride, int64_t rows, int64_t inputs) { return {pointer(x), stride, rows, inputs}; }

}  // namespace

void register_linear(py::module_& m) {
  define(m, "linear", [](int dtype, Address x, int64_t x_stride, int64_t rows, int64_t inputs, Address weight,
                     int64_t weight_stride, Address bias, Address out, int64_t outputs) {
    const LinearLayer layer{pointer(weight), weight_stride, pointer(bias), pointer(out), outputs};
    linear(static_cast<DType>(dtype), input(x, x_stride, rows, inputs), &layer, 1);
  });
  define(m, "qkv_linear",
         [](int dtype, Address x, int64_t x_stride, int64_t rows, int64_t inputs, Address q_weight, int64_t q_stride,
            Address q_bias, Address q, int64_t q_outputs, Address k_weight, int64_t k_stride, Address k_bias, Address k,
            int64_t k_outputs, Address v_weight, int64_t v_stride, Address v_bias, Address v, int64_t v_outputs) {
           const LinearLayer layers[] = {
               {pointer(q_weight), q_stride, pointer(q_bias), pointer(q), q_outputs},
               {pointer(k_weight), k_stride, pointer(k_bias), pointer(k), k_outputs},
               {pointer(v_weight), v_stride, pointer(v_bias), pointer(v), v_outputs},
           };
           linear(static_cast<DType>(dtype), input(x, x_stride, rows, inputs), layers, 3);
         });
  define(m, "swiglu_linear", [](int dtype, Address x, int64_t x_stride, int64_t rows, int64_t inputs, Address gate,
                            int64_t gate_stride, Address up, int64_t up_stride, Address out, int64_t outputs) {
    swiglu_linear(static_cast<DType>(dtype), input(x, x_stride, rows, inputs),
                  {pointer(gate), gate_stride, nullptr, nullptr, outputs},
                  {pointer(up), up_stride, nullptr, nullptr, outputs}, pointer(out));
  });
}

}  // namespace illume_fast
