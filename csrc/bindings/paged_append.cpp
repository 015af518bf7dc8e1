#include "illume_fast/paged_append.h"

#include "bindings.h"

namespace illume_fast {

void register_paged_append(py::module_& m) {
  define(m, "paged_append",
        [](int dtype, Address k, int64_t k_token_stride, int64_t k_head_stride, Address v, int64_t v_token_stride,
           int64_t v_head_stride, int cache_dtype, Address k_pages, Address v_pages, int64_t num_pages,
           int64_t page_size, int64_t heads, int64_t size, Address table, int64_t table_rows, int64_t table_stride,
           int64_t max_pages, Address rows, bool rows_wide, Address positions, bool positions_wide, int64_t tokens) {
          const PagedCache cache{static_cast<DType>(cache_dtype), pointer(k_pages), pointer(v_pages), num_pages,
                                 page_size, heads, size, pointer<const int32_t>(table), table_rows, table_stride,
                                 max_pages};
          return paged_append(static_cast<DType>(dtype), {pointer(k), k_token_stride, k_head_stride, heads},
                              {pointer(v), v_token_stride, v_head_stride, heads}, cache, {pointer(rows), rows_wide},
                              {pointer(positions), positions_wide}, tokens);
        });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_paged_append",
        [](int dtype, Address k, int64_t k_token_stride, int64_t k_head_stride, Address v, int64_t v_token_stride,
           int64_t v_head_stride, int cache_dtype, Address k_pages, Address v_pages, int64_t num_pages,
           int64_t page_size, int64_t heads, int64_t size, Address table, int64_t table_rows, int64_t table_stride,
           int64_t max_pages, Address rows, bool rows_wide, Address positions, bool positions_wide, int64_t tokens,
           Address stream) {
          const PagedCache cache{static_cast<DType>(cache_dtype), pointer(k_pages), pointer(v_pages), num_pages,
                                 page_size, heads, size, pointer<const int32_t>(table), table_rows, table_stride,
                                 max_pages};
          return cuda::paged_append(static_cast<DType>(dtype), {pointer(k), k_token_stride, k_head_stride, heads},
                                    {pointer(v), v_token_stride, v_head_stride, heads}, cache,
                                    {pointer(rows), rows_wide}, {pointer(positions), positions_wide}, tokens,
                                    pointer(stream));
        });
#endif
}

}  // namespace illume_fast
