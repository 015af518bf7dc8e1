// Classifier-free guidance, temperature, top-k, top-p, min-p and a draw; the rule is in illume_fast/ops/cfg_sample.py.
#pragma once

#include <cstdint>

#include "illume_fast/cuda.h"
#include "illume_fast/dtype.h"
#include "illume_fast/isa.h"

namespace illume_fast {

// One value for every row or, where `rows` is not null, one for each.
template <typename T>
struct PerRow {
  T value;
  const T* rows;
};

// What is random about a draw: one number for the row, or one for each token.
enum class Noise : int { inverse = 0, race = 1 };

struct SampleParameters {
  PerRow<float> guidance, temperature;
  PerRow<int64_t> top_k;
  PerRow<float> top_p, min_p;
  PerRow<int64_t> seed, step;
  Noise noise = Noise::inverse;
  // a second chain over what top-k and top-p have left
  PerRow<float> then_temperature{1.0f, nullptr};
  PerRow<int64_t> then_top_k{0, nullptr};
  PerRow<float> then_top_p{1.0f, nullptr};
};

// cond and uncond (null: no guidance) have `rows` rows of `size` contiguous logits, cond_stride and uncond_stride
// elements apart; size <= 2^21. Writes an id, that of a row's first logit being `first`, or -1, for each row. False: no
// memory, and ids are not to be used.
ILLUME_FAST_PER_ISA(bool, cfg_sample,
                    (DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                     int64_t* ids, int64_t first, int64_t rows, int64_t size, const SampleParameters& parameters),
                    (dtype, cond, cond_stride, uncond, uncond_stride, ids, first, rows, size, parameters))

// The weights that `cfg_sample` draws with, in multiples of 2^-40, packed [rows, size]: 0 where a token cannot be drawn, -1
// in the whole of a row that has no draw. False: no memory, and the weights are not to be used.
ILLUME_FAST_PER_ISA(bool, cfg_weights,
                    (DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                     int64_t* weights, int64_t rows, int64_t size, const SampleParameters& parameters),
                    (dtype, cond, cond_stride, uncond, uncond_stride, weights, rows, size, parameters))

// Mixes rows of `size` contiguous numbers in float32 by guidance, where that is 0 or 1 to the branch itself, and rounds to
// out_dtype. The rows of out are packed.
ILLUME_FAST_PER_ISA(void, cfg_mix,
                    (DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                     DType out_dtype, void* out, int64_t rows, int64_t size, const PerRow<float>& guidance),
                    (dtype, cond, cond_stride, uncond, uncond_stride, out_dtype, out, rows, size, guidance))

namespace cuda {

// The same on a GPU, each in one launch. All return 0 or CUDA's error code, of the launch alone; rows * size > 0.
int cfg_sample(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
               int64_t* ids, int64_t first, int64_t rows, int64_t size, const SampleParameters& parameters,
               Stream stream);
int cfg_weights(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                int64_t* weights, int64_t rows, int64_t size, const SampleParameters& parameters, Stream stream);
int cfg_mix(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
            DType out_dtype, void* out, int64_t rows, int64_t size, const PerRow<float>& guidance, Stream stream);

}  // namespace cuda

}  // namespace illume_fast
