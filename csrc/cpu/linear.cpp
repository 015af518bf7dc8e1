#include "illume_fast/linear.h"

#include "parallel.h"
#include "products.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int64_t kGrain = 1 << 16;  // numbers of the weight a thread should read to be worth waking

template <typename T>
void product(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride, const T* bias, T* out,
             int64_t outputs, int64_t inputs) {
  const int64_t blocks = (outputs + kBlockOutputs - 1) / kBlockOutputs;
  const int64_t grain = kGrain / (kBlockOutputs * (inputs + 1)) + 1;
  parallel_for(blocks, grain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kBlockOutputs;
      const int64_t some = outputs - first < kBlockOutputs ? outputs - first : kBlockOutputs;
      for_each_row_of_products(
          x, x_stride, rows, weight + first * weight_stride, weight_stride, some, inputs,
          [=](int64_t m, const float* sums) {
            for_each_vector(some, [=](int64_t n, int64_t count) {
              vf sum = load(sums + n);
              if (bias != nullptr) sum += load_some(bias + first + n, count);
              store_some(out + m * outputs + first + n, sum, count);
            });
          });
    }
  });
}

}  // namespace

void linear(DType dtype, const void* x, int64_t x_stride, int64_t rows, const void* weight, int64_t weight_stride,
            const void* bias, void* out, int64_t outputs, int64_t inputs) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    product(static_cast<const T*>(x), x_stride, rows, static_cast<const T*>(weight), weight_stride,
            static_cast<const T*>(bias), static_cast<T*>(out), outputs, inputs);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
