#include "illume_fast/code_statistics.h"

#include "common.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 128;

// One thread adds up one number of one code's rows, in the order they come in.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(const T* x, int64_t x_row, int64_t x_column, const int64_t* order, const int64_t* bounds, float* counts,
               float* sums, int64_t size) {
  const int64_t code = blockIdx.x, begin = bounds[code], end = bounds[code + 1];
  if (threadIdx.x == 0) counts[code] = static_cast<float>(end - begin);
  for (int64_t d = threadIdx.x; d < size; d += kThreads) {
    double total = 0.0;
    for (int64_t i = begin; i < end; ++i) total += to_float(x[order[i] * x_row + d * x_column]);
    sums[code * size + d] = static_cast<float>(total);
  }
}

}  // namespace

int code_statistics(DType dtype, const void* x, int64_t x_row, int64_t x_column, const int64_t* order,
                    const int64_t* bounds, float* counts, float* sums, int64_t codes, int64_t size, Stream stream) {
  return with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    sum_kernel<T><<<static_cast<unsigned>(codes), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(x), x_row, x_column, order, bounds, counts, sums, size);
    return static_cast<int>(cudaGetLastError());
  });
}

}  // namespace illume_fast::cuda
