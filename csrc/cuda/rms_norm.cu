#include "illume_fast/rms_norm.h"

#include <algorithm>

#include "rms_norm.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kSumThreads = 128;

template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads)
    forward_kernel(const T* x, int64_t x_stride, const T* residual, int64_t residual_stride, const T* weight, float eps,
                   T* sum, T* out, int64_t columns) {
  __shared__ double scratch[kNormWarps];
  const int64_t row = blockIdx.x;
  norm_row<T, N>(x + row * x_stride, residual == nullptr ? nullptr : residual + row * residual_stride, weight, eps,
                 sum == nullptr ? nullptr : sum + row * columns, out + row * columns, columns, scratch);
}

template <typename T, int N>
__global__ void __launch_bounds__(kNormThreads)
    backward_kernel(const T* grad, const T* grad_sum, const T* x, const T* weight, float eps, T* grad_x,
                    float* inverses, int64_t columns) {
  __shared__ double scratch[kNormWarps];
  const int64_t at = int64_t{blockIdx.x} * columns;
  const float inverse = norm_row_backward<T, N>(grad + at, grad_sum == nullptr ? nullptr : grad_sum + at, x + at,
                                                weight, eps, grad_x + at, columns, scratch);
  if (threadIdx.x == 0) inverses[blockIdx.x] = inverse;
}

// Each block adds up some rows of a few columns, in order; the parts are then added in order too, so that the result
// does not depend on which block was first.
template <typename T>
__global__ void __launch_bounds__(kSumThreads)
    weight_parts_kernel(const T* grad, const T* x, const float* inverses, float* parts, int64_t rows, int64_t columns,
                        int64_t rows_per_part) {
  const int64_t column = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (column >= columns) return;
  const int64_t begin = blockIdx.y * rows_per_part, end = min(begin + rows_per_part, rows);
  float total = 0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t i = row * columns + column;
    total += to_float(grad[i]) * (to_float(x[i]) * inverses[row]);
  }
  parts[blockIdx.y * columns + column] = total;
}

template <typename T>
__global__ void __launch_bounds__(kSumThreads)
    weight_total_kernel(const float* parts, T* grad_weight, int64_t count, int64_t columns) {
  const int64_t column = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
  if (column >= columns) return;
  float total = 0;
  for (int64_t part = 0; part < count; ++part) total += parts[part * columns + column];
  grad_weight[column] = from_float<T>(total);
}

template <typename T>
bool is_wide(int64_t columns, std::initializer_list<const void*> packed) {
  return columns % kVectorWidth<T> == 0 &&
         std::all_of(packed.begin(), packed.end(), [](const void* p) { return is_aligned(p, 16); });
}

}  // namespace

int rms_norm_forward(DType dtype, const void* x, int64_t x_stride, const void* residual, int64_t residual_stride,
                     const void* weight, float eps, void* sum, void* out, int64_t rows, int64_t columns,
                     Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto launch = [=](auto width) {
      constexpr int n = decltype(width)::value;
      forward_kernel<T, n><<<static_cast<unsigned>(rows), kNormThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          static_cast<const T*>(x), x_stride, static_cast<const T*>(residual), residual_stride,
          static_cast<const T*>(weight), eps, static_cast<T*>(sum), static_cast<T*>(out), columns);
      return static_cast<int>(cudaGetLastError());
    };
    const bool wide = is_wide<T>(columns, {x, residual, weight, sum, out}) && x_stride % kVectorWidth<T> == 0 &&
                      residual_stride % kVectorWidth<T> == 0;
    return wide ? launch(Width<kVectorWidth<T>>{}) : launch(Width<1>{});
  });
}

int rms_norm_backward(DType dtype, const void* grad, const void* grad_sum, const void* x, const void* weight, float eps,
                      void* grad_x, void* grad_weight, float* inverses, float* parts, int64_t rows, int64_t columns,
                      Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    const auto on = static_cast<cudaStream_t>(stream);
    const auto launch = [=](auto width) {
      constexpr int n = decltype(width)::value;
      backward_kernel<T, n><<<static_cast<unsigned>(rows), kNormThreads, 0, on>>>(
          static_cast<const T*>(grad), static_cast<const T*>(grad_sum), static_cast<const T*>(x),
          static_cast<const T*>(weight), eps, static_cast<T*>(grad_x), inverses, columns);
    };
    if (is_wide<T>(columns, {grad, grad_sum, x, weight, grad_x})) {
      launch(Width<kVectorWidth<T>>{});
    } else {
      launch(Width<1>{});
    }
    const auto blocks = static_cast<unsigned>(ceil_div(columns, kSumThreads));
    const int64_t per_part = ceil_div(rows, kRmsNormParts), count = ceil_div(rows, per_part);
    weight_parts_kernel<T><<<dim3(blocks, static_cast<unsigned>(count)), kSumThreads, 0, on>>>(
        static_cast<const T*>(grad), static_cast<const T*>(x), inverses, parts, rows, columns, per_part);
    weight_total_kernel<T>
        <<<blocks, kSumThreads, 0, on>>>(parts, static_cast<T*>(grad_weight), count, columns);
    return static_cast<int>(cudaGetLastError());
  });
}

}  // namespace illume_fast::cuda
