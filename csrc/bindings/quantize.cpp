#include "illume_fast/quantize.h"

#include "bindings.h"

namespace illume_fast {
namespace {

Quantized quantized(int dtype, Address x, int64_t stride, int codebook_dtype, Address codebook, Address ids,
                    int64_t rows, int64_t size, int64_t codes) {
  return {static_cast<DType>(dtype), pointer(x), stride, static_cast<DType>(codebook_dtype), pointer(codebook),
          pointer<int64_t>(ids), rows, size, codes};
}

}  // namespace

void register_quantize(py::module_& m) {
  define(m, "quantize_forward",
        [](int dtype, Address x, int64_t stride, int codebook_dtype, Address codebook, Address ids, int64_t rows,
           int64_t size, int64_t codes, Address values, Address error, Address error_again) {
          return quantize_forward(quantized(dtype, x, stride, codebook_dtype, codebook, ids, rows, size, codes),
                                  pointer(values), pointer<float>(error), pointer<float>(error_again));
        });
  define(m, "quantize_backward",
        [](int dtype, Address x, int64_t stride, int codebook_dtype, Address codebook, Address ids, int64_t rows,
           int64_t size, int64_t codes, bool rotate, Address grad, Address error_grad, Address grad_x) {
          return quantize_backward(quantized(dtype, x, stride, codebook_dtype, codebook, ids, rows, size, codes),
                                   rotate, pointer(grad), pointer<float>(error_grad), pointer(grad_x));
        });
  define(m, "quantize_codebook_gradient",
        [](int dtype, Address x, int64_t stride, int codebook_dtype, Address codebook, Address ids, int64_t rows,
           int64_t size, int64_t codes, Address error_grad, Address ends, Address order, Address grad_codebook) {
          return quantize_codebook_gradient(
              quantized(dtype, x, stride, codebook_dtype, codebook, ids, rows, size, codes), pointer<float>(error_grad),
              pointer<int64_t>(ends), pointer<int64_t>(order), pointer(grad_codebook));
        });
}

}  // namespace illume_fast
