// Where the attention heads of a tensor lie.
#pragma once

#include <cstdint>

namespace illume_fast {

// [tokens, count, size]: tokens and heads lie their strides, in elements, apart; a head's elements are contiguous.
struct Heads {
  const void* data;
  int64_t token_stride;
  int64_t head_stride;
  int64_t count;
};

}  // namespace illume_fast
