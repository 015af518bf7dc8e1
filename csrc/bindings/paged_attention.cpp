#include "illume_fast/paged_attention.h"

#include "bindings.h"

namespace illume_fast {

void register_paged_attention(py::module_& m) {
  define(m, "paged_attention",
        [](int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, int64_t q_heads, int cache_dtype,
           Address k_pages, Address v_pages, int64_t num_pages, int64_t page_size, int64_t heads, int64_t size,
           Address table, int64_t table_rows, int64_t table_stride, int64_t max_pages, Address rows, bool rows_wide,
           Address lengths, bool lengths_wide, int64_t extra, float scale, Address out, int64_t tokens) {
          const PagedCache cache{static_cast<DType>(cache_dtype), pointer(k_pages), pointer(v_pages), num_pages,
                                 page_size, heads, size, pointer<const int32_t>(table), table_rows, table_stride,
                                 max_pages};
          return paged_attention(static_cast<DType>(dtype), {pointer(q), q_token_stride, q_head_stride, q_heads}, cache,
                                 {pointer(rows), rows_wide}, {pointer(lengths), lengths_wide}, extra, scale,
                                 pointer(out), tokens);
        });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  m.def("cuda_paged_attention_takes", cuda::paged_attention_takes);
  // floats that the kernel works in
  define(m, "cuda_paged_attention_parts", [](int64_t page_size, int64_t size, int64_t max_pages, int64_t query_heads,
                                         int64_t tokens) {
    PagedCache cache{};
    cache.page_size = page_size;
    cache.size = size;
    cache.max_pages = max_pages;
    return cuda::paged_attention_parts(cache, query_heads, tokens);
  });
  define(m, "cuda_paged_attention",
        [](int dtype, Address q, int64_t q_token_stride, int64_t q_head_stride, int64_t q_heads, int cache_dtype,
           Address k_pages, Address v_pages, int64_t num_pages, int64_t page_size, int64_t heads, int64_t size,
           Address table, int64_t table_rows, int64_t table_stride, int64_t max_pages, Address rows, bool rows_wide,
           Address lengths, bool lengths_wide, int64_t extra, float scale, Address out, int64_t tokens, Address parts,
           Address stream) {
          const PagedCache cache{static_cast<DType>(cache_dtype), pointer(k_pages), pointer(v_pages), num_pages,
                                 page_size, heads, size, pointer<const int32_t>(table), table_rows, table_stride,
                                 max_pages};
          return cuda::paged_attention(static_cast<DType>(dtype), {pointer(q), q_token_stride, q_head_stride, q_heads},
                                       cache, {pointer(rows), rows_wide}, {pointer(lengths), lengths_wide}, extra,
                                       scale, pointer(out), pointer<float>(parts), tokens, pointer(stream));
        });
#endif
}

}  // namespace illume_fast
