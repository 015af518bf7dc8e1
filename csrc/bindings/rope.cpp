#include "illume_fast/rope.h"

#include "bindings.h"

namespace illume_fast {

void register_rope(py::module_& m) {
  define(m, "rope", [](int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, int64_t q_heads, Address k,
                   int64_t k_token_stride, int64_t k_head_stride, int64_t k_heads, Address cos, Address sin,
                   int64_t table_rows, Address q_out, Address k_out, int64_t tokens, int64_t half) {
    rope(static_cast<DType>(dtype), {pointer(q), q_token_stride, q_head_stride, q_heads},
         {pointer(k), k_token_stride, k_head_stride, k_heads}, pointer<const float>(cos), pointer<const float>(sin),
         table_rows, pointer(q_out), pointer(k_out), tokens, half);
  });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_rope", [](int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, int64_t q_heads, Address k,
                        int64_t k_token_stride, int64_t k_head_stride, int64_t k_heads, Address cos, Address sin,
                        int64_t table_rows, Address q_out, Address k_out, int64_t tokens, int64_t half,
                        Address stream) {
    return cuda::rope(static_cast<DType>(dtype), {pointer(q), q_token_stride, q_head_stride, q_heads},
                      {pointer(k), k_token_stride, k_head_stride, k_heads}, pointer<const float>(cos),
                      pointer<const float>(sin), table_rows, pointer(q_out), pointer(k_out), tokens, half,
                      pointer(stream));
  });
#endif
}

}  // namespace illume_fast
