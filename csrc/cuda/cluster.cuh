// The blocks that work on one thing together and read each other's shared memory.
#pragma once

#include <cooperative_groups.h>

namespace illume_fast::cuda {

// A cluster on compute capability 9, else one block alone.
struct Group {
#if __CUDA_ARCH__ >= 900
  __device__ static unsigned rank() { return cooperative_groups::this_cluster().block_rank(); }
  __device__ static unsigned size() { return cooperative_groups::this_cluster().num_blocks(); }
  // a barrier for all threads of all blocks
  __device__ static void sync() { cooperative_groups::this_cluster().sync(); }
  // where another block of the group has what this one has at p, in shared memory
  template <typename T>
  __device__ static const T* of(const T* p, unsigned block) {
    return cooperative_groups::this_cluster().map_shared_rank(p, block);
  }
#else
  __device__ static unsigned rank() { return 0; }
  __device__ static unsigned size() { return 1; }
  __device__ static void sync() { __syncthreads(); }
  template <typename T>
  __device__ static const T* of(const T* p, unsigned) {
    return p;
  }
#endif
};

}  // namespace illume_fast::cuda
