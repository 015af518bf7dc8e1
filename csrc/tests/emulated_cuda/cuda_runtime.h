// Enough of CUDA's device side to run device functions on the CPU and see what they compute, where there is no GPU.
//
// Every thread of a cluster is a fibre, and all fibres take turns on one thread of the machine: each runs until it waits at
// a barrier or a warp's exchange. So this shows whether the arithmetic and the barriers are right; of speed, of memory
// order and of races between barriers it shows nothing.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __host__
#define __CUDA_ARCH__ 900

struct Dim3 {
  unsigned x, y, z;
};
inline Dim3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0};

namespace emulated {

constexpr size_t kStackBytes = 1 << 16;

// Fibres that wait for each other.
class Barrier {
 public:
  explicit Barrier(int count = 0) : count_(count) {}
  void wait();

 private:
  int count_, arrived_ = 0;
  long generation_ = 0;
};

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
};

struct Machine {
  int threads = 0, blocks = 0, current = 0;
  std::function<void()> program;
  std::vector<Fibre> fibres;
  std::vector<Barrier> block_barriers, warp_barriers;
  Barrier cluster_barrier;
  std::vector<uint64_t> exchanged;
  std::vector<char*> shared;  // each block's shared memory
  ucontext_t scheduler;
};
inline Machine machine;

inline void Barrier::wait() {
  const long mine = generation_;
  if (++arrived_ == count_) {
    arrived_ = 0;
    ++generation_;
    return;
  }
  while (generation_ == mine) swapcontext(&machine.fibres[static_cast<size_t>(machine.current)].context, &machine.scheduler);
}

inline size_t block() { return static_cast<size_t>(machine.current / machine.threads); }

inline void start() {
  machine.program();
  machine.fibres[static_cast<size_t>(machine.current)].done = true;
}

// Runs `program` once on every thread of a cluster of `blocks` blocks, whose shared memories lie at `shared`.
inline void run_cluster(int blocks, int threads, std::vector<char*> shared, std::function<void()> program) {
  const size_t count = static_cast<size_t>(blocks) * static_cast<size_t>(threads);
  machine.threads = threads;
  machine.blocks = blocks;
  machine.program = std::move(program);
  machine.shared = std::move(shared);
  machine.block_barriers.assign(static_cast<size_t>(blocks), Barrier(threads));
  machine.warp_barriers.assign(count / 32, Barrier(32));
  machine.cluster_barrier = Barrier(static_cast<int>(count));
  machine.exchanged.assign(count, 0);
  if (machine.fibres.size() < count) machine.fibres.resize(count);
  for (size_t i = 0; i < count; ++i) {
    Fibre& fibre = machine.fibres[i];
    if (fibre.stack == nullptr) fibre.stack.reset(new char[kStackBytes]);
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = &machine.scheduler;
    fibre.done = false;
    makecontext(&fibre.context, start, 0);
  }
  for (bool alive = true; alive;) {
    alive = false;
    for (size_t i = 0; i < count; ++i) {
      if (machine.fibres[i].done) continue;
      alive = true;
      machine.current = static_cast<int>(i);
      threadIdx.x = static_cast<unsigned>(i) % static_cast<unsigned>(threads);
      swapcontext(&machine.scheduler, &machine.fibres[i].context);
    }
  }
}

// The value that `lane` of the calling thread's warp gave.
template <typename T>
T from_lane(T value, int lane) {
  const size_t self = static_cast<size_t>(machine.current), warp = self / 32;
  std::memcpy(&machine.exchanged[self], &value, sizeof value);
  machine.warp_barriers[warp].wait();
  T other;
  std::memcpy(&other, &machine.exchanged[warp * 32 + static_cast<size_t>(lane)], sizeof other);
  machine.warp_barriers[warp].wait();
  return other;
}

inline int lane() { return machine.current % 32; }

inline float of_bfloat16(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float x;
  std::memcpy(&x, &wide, sizeof x);
  return x;
}

// A warp's product of 16 x 16 and 16 x 8 numbers of bfloat16, two in a word; the layout is in csrc/cuda/mma.cuh.
inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int g = lane() / 4, p = lane() % 4;
  float left[2][16], right[2][16];  // rows g and g + 8 of a, columns 2p and 2p + 1 of b
  for (int part = 0; part < 4; ++part) {
    for (int word = 0; word < 4; ++word) {
      const uint32_t of_a = from_lane(a[word], g * 4 + part);
      for (int i = 0; i < 2; ++i) left[word % 2][word / 2 * 8 + part * 2 + i] = of_bfloat16(of_a >> 16 * i & 0xffff);
    }
    for (int word = 0; word < 2; ++word) {
      for (int column = 0; column < 2; ++column) {
        const uint32_t of_b = from_lane(b[word], (2 * p + column) * 4 + part);
        for (int i = 0; i < 2; ++i) right[column][word * 8 + part * 2 + i] = of_bfloat16(of_b >> 16 * i & 0xffff);
      }
    }
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) d[i] += left[i / 2][k] * right[i % 2][k];
  }
}

}  // namespace emulated

inline void __syncthreads() { emulated::machine.block_barriers[emulated::block()].wait(); }
inline void __syncwarp() { emulated::machine.warp_barriers[static_cast<size_t>(emulated::machine.current) / 32].wait(); }

template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return emulated::from_lane(value, source % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::from_lane(value, emulated::lane() ^ mask);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int offset) {
  const int source = emulated::lane() + offset;
  return emulated::from_lane(value, source < 32 ? source : emulated::lane());
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int offset) {
  const int source = emulated::lane() - offset;
  return emulated::from_lane(value, source >= 0 ? source : emulated::lane());
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned bits = 0;
  for (int source = 0; source < 32; ++source) bits |= emulated::from_lane(vote ? 1u : 0u, source) << source;
  return bits;
}
inline int __reduce_max_sync(unsigned, int value) {
  int most = value;
  for (int source = 0; source < 32; ++source) most = std::max(most, emulated::from_lane(value, source));
  return most;
}

template <typename T>
T atomicAdd(T* where, T value) {
  const T before = *where;
  *where = before + value;
  return before;
}

inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline long long __double2ll_rn(double x) { return std::llrint(x); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
using std::isfinite;
using std::max;
using std::min;
