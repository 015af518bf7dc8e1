#include "illume_fast/gather_rows.h"

#include "gather_rows.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const char* table, int64_t stride, int64_t rows, int64_t parts, const int64_t* index, T* out,
                  int64_t items) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < items) gather_part(table, stride, rows, parts, index, out, i);
}

}  // namespace

int gather_rows(const void* table, int64_t stride, int64_t rows, int64_t bytes, const int64_t* index, void* out,
                int64_t count, Stream stream) {
  const auto launch = [=](auto part) {
    using T = decltype(part);
    const int64_t parts = bytes / static_cast<int64_t>(sizeof(T)), items = parts * count;
    gather_kernel<T><<<static_cast<unsigned>(ceil_div(items, kThreads)), kThreads, 0,
                       static_cast<cudaStream_t>(stream)>>>(static_cast<const char*>(table), stride, rows, parts, index,
                                                            static_cast<T*>(out), items);
    return static_cast<int>(cudaGetLastError());
  };
  const auto fits = [=](int64_t size) {
    return bytes % size == 0 && stride % size == 0 && is_aligned(table, size) && is_aligned(out, size);
  };
  if (fits(16)) return launch(Vector<float, 4>{});
  if (fits(4)) return launch(uint32_t{});
  if (fits(2)) return launch(uint16_t{});
  return launch(uint8_t{});
}

}  // namespace illume_fast::cuda
