#include "illume_fast/paged_attention.h"

#include "paged_attention.cuh"

namespace illume_fast::cuda {
namespace {

template <typename C, int D, int G>
__global__ void __launch_bounds__(kAttentionThreads, 2) attention_kernel(const AttentionArgs a) {
  extern __shared__ __align__(16) unsigned char memory[];
  attend_block<C, D, G>(a, blockIdx.y, blockIdx.z, blockIdx.x, *reinterpret_cast<BlockShared<C, D, G>*>(memory));
}

template <int D>
__global__ void __launch_bounds__(D) join_kernel(const AttentionArgs a) {
  join_parts<D>(a, blockIdx.y, blockIdx.x, static_cast<int>(threadIdx.x));
}

int64_t stretches_of(const PagedCache& cache) { return ceil_div(cache.max_pages * cache.page_size, kStretch); }

// The least of the sizes that kernels are compiled for; 0 if there is none.
int padded_size(int64_t size) {
  for (const int d : {32, 64, 128, 256}) {
    if (size <= d) return d;
  }
  return 0;
}

template <typename C, int D, int G>
int launch(const AttentionArgs& args, int64_t tokens, cudaStream_t stream) {
  constexpr int bytes = sizeof(BlockShared<C, D, G>);
  const auto kernel = attention_kernel<C, D, G>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return static_cast<int>(error);
  const int64_t heads = args.cache.heads * ceil_div(args.q.count / args.cache.heads, G);
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>(args.stretches), static_cast<unsigned>(heads));
  kernel<<<grid, kAttentionThreads, bytes, stream>>>(args);
  if (args.stretches > 1) {
    const dim3 all_heads(static_cast<unsigned>(tokens), static_cast<unsigned>(args.q.count));
    join_kernel<D><<<all_heads, D, 0, stream>>>(args);
  }
  return static_cast<int>(cudaGetLastError());
}

template <typename C, int D>
int launch_for(const AttentionArgs& args, int64_t tokens, cudaStream_t stream) {
  const int64_t group = args.q.count / args.cache.heads;
  // with more heads a block of the widest floats would not fit into shared memory
  if constexpr (D * sizeof(C) <= 512) {
    if (group > 4) return launch<C, D, 8>(args, tokens, stream);
    if (group > 1) return launch<C, D, 4>(args, tokens, stream);
  }
  return launch<C, D, 1>(args, tokens, stream);
}

}  // namespace

int64_t paged_attention_parts(const PagedCache& cache, int64_t query_heads, int64_t tokens) {
  const int64_t stretches = stretches_of(cache);
  return stretches > 1 ? tokens * query_heads * stretches * (padded_size(cache.size) + 2) : 0;
}

bool paged_attention_takes(int64_t size) { return padded_size(size) > 0; }

int paged_attention(DType dtype, Heads q, const PagedCache& cache, Indices rows, Indices lengths, int64_t extra,
                    float scale, void* out, float* parts, int64_t tokens, Stream stream) {
  const AttentionArgs args{dtype, q, cache, rows, lengths, extra, scale, out, parts, stretches_of(cache)};
  const auto on = static_cast<cudaStream_t>(stream);
  return with_dtype(cache.dtype, [&](auto tag) {
    using C = decltype(tag);
    switch (padded_size(cache.size)) {
      case 32:
        return launch_for<C, 32>(args, tokens, on);
      case 64:
        return launch_for<C, 64>(args, tokens, on);
      case 128:
        return launch_for<C, 128>(args, tokens, on);
      default:
        return launch_for<C, 256>(args, tokens, on);
    }
  });
}

}  // namespace illume_fast::cuda
