#include "illume_fast/mask_columns.h"

#include <limits>

#include "loops.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

void mask_columns(DType dtype, void* x, int64_t rows, int64_t size, const int64_t* bounds, int64_t count) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i + 1 < count; i += 2) {
        T* columns = static_cast<T*>(x) + row * size + bounds[i];
        for_each_vector(bounds[i + 1] - bounds[i], [=](int64_t n, int64_t some) {
          store_some(columns + n, broadcast(-std::numeric_limits<float>::infinity()), some);
        });
      }
    }
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
