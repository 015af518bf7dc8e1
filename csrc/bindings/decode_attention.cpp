#include "bindings.h"
#include "illume_fast/paged_append.h"
#include "illume_fast/paged_attention.h"
#include "illume_fast/rope.h"

namespace illume_fast {

// Three kernels one after the other, without the calls from Python in between. Returns -1, or the first token that is out
// of range.
void register_decode_attention(py::module_& m) {
  define(m, "decode_attention",
         [](int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, int64_t q_heads, Address k,
            int64_t k_token_stride, int64_t k_head_stride, Address v, int64_t v_token_stride, int64_t v_head_stride,
            Address cos, Address sin, int cache_dtype, Address k_pages, Address v_pages, int64_t num_pages,
            int64_t page_size, int64_t heads, int64_t size, Address table, int64_t table_rows, int64_t table_stride,
            int64_t max_pages, Address rows, bool rows_wide, Address positions, bool positions_wide, float scale,
            Address q_turned, Address k_turned, Address out, int64_t tokens) -> int64_t {
           const auto type = static_cast<DType>(dtype);
           const PagedCache cache{static_cast<DType>(cache_dtype), pointer(k_pages), pointer(v_pages), num_pages,
                                  page_size, heads, size, pointer<const int32_t>(table), table_rows, table_stride,
                                  max_pages};
           const Indices where{pointer(positions), positions_wide}, row{pointer(rows), rows_wide};
           rope(type, {pointer(q), q_token_stride, q_head_stride, q_heads},
                {pointer(k), k_token_stride, k_head_stride, heads}, pointer<const float>(cos),
                pointer<const float>(sin), tokens, pointer(q_turned), pointer(k_turned), tokens, size / 2);
           const int64_t bad = paged_append(type, {pointer(k_turned), heads * size, size, heads},
                                            {pointer(v), v_token_stride, v_head_stride, heads}, cache, row, where,
                                            tokens);
           if (bad >= 0) return bad;
           return paged_attention(type, {pointer(q_turned), q_heads * size, size, q_heads}, cache, row, where, 1,
                                  scale, pointer(out), tokens);
         });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  // 0, or CUDA's error code of the first launch that failed
  define(m, "cuda_decode_attention",
         [](int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, int64_t q_heads, Address k,
            int64_t k_token_stride, int64_t k_head_stride, Address v, int64_t v_token_stride, int64_t v_head_stride,
            Address cos, Address sin, int cache_dtype, Address k_pages, Address v_pages, int64_t num_pages,
            int64_t page_size, int64_t heads, int64_t size, Address table, int64_t table_rows, int64_t table_stride,
            int64_t max_pages, Address rows, bool rows_wide, Address positions, bool positions_wide, float scale,
            Address q_turned, Address k_turned, Address out, int64_t tokens, Address parts, Address stream) {
           const auto type = static_cast<DType>(dtype);
           const PagedCache cache{static_cast<DType>(cache_dtype), pointer(k_pages), pointer(v_pages), num_pages,
                                  page_size, heads, size, pointer<const int32_t>(table), table_rows, table_stride,
                                  max_pages};
           const Indices where{pointer(positions), positions_wide}, row{pointer(rows), rows_wide};
           int code = cuda::rope(type, {pointer(q), q_token_stride, q_head_stride, q_heads},
                                 {pointer(k), k_token_stride, k_head_stride, heads}, pointer<const float>(cos),
                                 pointer<const float>(sin), tokens, pointer(q_turned), pointer(k_turned), tokens,
                                 size / 2, pointer(stream));
           if (code != 0) return code;
           code = cuda::paged_append(type, {pointer(k_turned), heads * size, size, heads},
                                     {pointer(v), v_token_stride, v_head_stride, heads}, cache, row, where, tokens,
                                     pointer(stream));
           if (code != 0) return code;
           return cuda::paged_attention(type, {pointer(q_turned), q_heads * size, size, q_heads}, cache, row, where, 1,
                                        scale, pointer(out), pointer<float>(parts), tokens, pointer(stream));
         });
#endif
}

}  // namespace illume_fast
