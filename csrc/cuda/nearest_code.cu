#include "nearest_code.cuh"

#include <algorithm>

namespace illume_fast::cuda {
namespace {

__global__ void __launch_bounds__(kRefineThreads) round_kernel(const SearchArgs a) {
  const int64_t query = (int64_t{blockIdx.x} * kRefineThreads + threadIdx.x) / 32;
  if (query < a.queries) round_query(a, query, static_cast<int>(threadIdx.x) % 32);
}

__global__ void __launch_bounds__(kSearchThreads, 2) score_kernel(const SearchArgs a, int64_t tiles, int64_t per_block) {
  __shared__ SearchShared s;
  const int64_t begin = blockIdx.y * per_block, end = min(begin + per_block, tiles);
  score_codes(a, int64_t{blockIdx.x} * kRows, begin, end, s);
}

__global__ void __launch_bounds__(kRefineThreads, 4) refine_kernel(const SearchArgs a) {
  const int64_t query = (int64_t{blockIdx.x} * kRefineThreads + threadIdx.x) / 32;
  if (query < a.queries) refine(a, query, static_cast<int>(threadIdx.x) % 32);
}

}  // namespace

int nearest_code(Metric metric, DType dtype, const void* x, int64_t outer, int64_t outer_stride, int64_t inner,
                 int64_t inner_stride, int64_t stride, const GpuCodes& codebook, const SearchRoom& room, int64_t* ids,
                 Stream stream) {
  const SearchArgs args{metric, dtype, x, inner, outer_stride, inner_stride, stride, outer * inner, codebook, room, ids};
  const auto on = static_cast<cudaStream_t>(stream);
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return static_cast<int>(error);
  const auto warps = static_cast<unsigned>(ceil_div(args.queries * 32, kRefineThreads));
  round_kernel<<<warps, kRefineThreads, 0, on>>>(args);
  // few queries: the codes are shared out among more blocks, two for each multiprocessor and a few rounds of them
  const int64_t rows = ceil_div(args.queries, kRows), tiles = ceil_div(codebook.blocks * kGpuBlockCodes, kCodes);
  const int64_t parts = std::min(tiles, std::max(int64_t{1}, 4 * multiprocessors / rows));
  const int64_t per_block = ceil_div(tiles, parts);
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(tiles, per_block)));
  score_kernel<<<grid, kSearchThreads, 0, on>>>(args, tiles, per_block);
  refine_kernel<<<warps, kRefineThreads, 0, on>>>(args);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace illume_fast::cuda
