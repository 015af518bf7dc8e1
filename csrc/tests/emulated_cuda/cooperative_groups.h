// Clusters, emulated; see cuda_runtime.h beside this file.
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

struct Cluster {
  unsigned block_rank() const { return static_cast<unsigned>(emulated::block()); }
  unsigned num_blocks() const { return static_cast<unsigned>(emulated::machine.blocks); }
  void sync() const { emulated::machine.cluster_barrier.wait(); }
  template <typename T>
  const T* map_shared_rank(const T* p, unsigned block) const {
    const char* base = emulated::machine.shared[emulated::block()];
    return reinterpret_cast<const T*>(emulated::machine.shared[block] + (reinterpret_cast<const char*>(p) - base));
  }
};

inline Cluster this_cluster() { return {}; }

}  // namespace cooperative_groups
