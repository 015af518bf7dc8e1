// Philox 4x32-10 (Salmon et al., SC 2011): random words that are a function of a key and a counter.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ILLUME_FAST_HOST_DEVICE __host__ __device__
#else
#define ILLUME_FAST_HOST_DEVICE
#endif

namespace illume_fast {

// The first two of the four words, as one number, the first word being its low half. The key's words are the halves of
// `key`, low first; the counter's are those of `counter`, then `third` and `fourth`. `static`: each file has its own copy,
// compiled for its own instruction set.
static inline ILLUME_FAST_HOST_DEVICE uint64_t philox(uint64_t key, uint64_t counter, uint32_t third = 0,
                                                      uint32_t fourth = 0) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = third, c3 = fourth;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return uint64_t{c1} << 32 | c0;
}

}  // namespace illume_fast
