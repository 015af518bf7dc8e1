#include "illume_fast/cfg_sample.h"

#include <array>
#include <tuple>
#include <vector>

#include <pybind11/stl.h>

#include "bindings.h"
#include "illume_fast/mask_columns.h"
#include "illume_fast/repetition_penalty.h"

namespace illume_fast {

namespace {

// The parameters in the order of the op, those of the second chain last: numbers, then addresses of per-row values, 0
// where there are none.
using Numbers = std::tuple<float, float, int64_t, float, float, int64_t, int64_t, float, int64_t, float>;
using Addresses = std::array<Address, 10>;

SampleParameters parameters_of(const Numbers& n, const Addresses& at, int noise) {
  return {{std::get<0>(n), pointer<float>(at[0])},   {std::get<1>(n), pointer<float>(at[1])},
          {std::get<2>(n), pointer<int64_t>(at[2])}, {std::get<3>(n), pointer<float>(at[3])},
          {std::get<4>(n), pointer<float>(at[4])},   {std::get<5>(n), pointer<int64_t>(at[5])},
          {std::get<6>(n), pointer<int64_t>(at[6])}, static_cast<Noise>(noise),
          {std::get<7>(n), pointer<float>(at[7])},   {std::get<8>(n), pointer<int64_t>(at[8])},
          {std::get<9>(n), pointer<float>(at[9])}};
}

}  // namespace

void register_cfg_sample(py::module_& m) {
  define(m, "cfg_sample",
        [](int dtype, Address cond, int64_t cond_stride, Address uncond, int64_t uncond_stride, Address ids,
           int64_t first, int64_t rows, int64_t size, const Numbers& numbers, const Addresses& at, int noise) {
          return cfg_sample(static_cast<DType>(dtype), pointer(cond), cond_stride, pointer(uncond), uncond_stride,
                            pointer<int64_t>(ids), first, rows, size,
                            parameters_of(numbers, at, noise));
        });
  define(m, "cfg_weights",
        [](int dtype, Address cond, int64_t cond_stride, Address uncond, int64_t uncond_stride, Address weights,
           int64_t rows, int64_t size, const Numbers& numbers, const Addresses& at) {
          return cfg_weights(static_cast<DType>(dtype), pointer(cond), cond_stride, pointer(uncond), uncond_stride,
                             pointer<int64_t>(weights), rows, size, parameters_of(numbers, at, 0));
        });
  define(m, "repetition_penalty",
        [](int dtype, Address logits, Address out, int64_t rows, int64_t size, int64_t first, Address seen,
           int64_t seen_size, int64_t seen_stride, Address counts, float penalty, Address penalty_rows) {
          repetition_penalty(static_cast<DType>(dtype), pointer(logits), pointer<float>(out), rows, size, first,
                             {pointer<int64_t>(seen), seen_size, seen_stride, pointer<int64_t>(counts)},
                             {penalty, pointer<float>(penalty_rows)});
        });
  define(m, "cfg_mix", [](int dtype, Address cond, int64_t cond_stride, Address uncond, int64_t uncond_stride,
                      int out_dtype, Address out, int64_t rows, int64_t size, float guidance, Address guidance_rows) {
    cfg_mix(static_cast<DType>(dtype), pointer(cond), cond_stride, pointer(uncond), uncond_stride,
            static_cast<DType>(out_dtype), pointer(out), rows, size, {guidance, pointer<float>(guidance_rows)});
  });
  define(m, "mask_columns", [](int dtype, Address x, int64_t rows, int64_t size, const std::vector<int64_t>& bounds) {
    mask_columns(static_cast<DType>(dtype), pointer(x), rows, size, bounds.data(), static_cast<int64_t>(bounds.size()));
  });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  define(m, "cuda_cfg_sample",
        [](int dtype, Address cond, int64_t cond_stride, Address uncond, int64_t uncond_stride, Address ids,
           int64_t first, int64_t rows, int64_t size, const Numbers& numbers, const Addresses& at, int noise,
           Address stream) {
          return cuda::cfg_sample(static_cast<DType>(dtype), pointer(cond), cond_stride, pointer(uncond),
                                  uncond_stride, pointer<int64_t>(ids), first, rows, size,
                                  parameters_of(numbers, at, noise), pointer(stream));
        });
  define(m, "cuda_cfg_weights",
        [](int dtype, Address cond, int64_t cond_stride, Address uncond, int64_t uncond_stride, Address weights,
           int64_t rows, int64_t size, const Numbers& numbers, const Addresses& at, Address stream) {
          return cuda::cfg_weights(static_cast<DType>(dtype), pointer(cond), cond_stride, pointer(uncond),
                                   uncond_stride, pointer<int64_t>(weights), rows, size,
                                   parameters_of(numbers, at, 0), pointer(stream));
        });
  define(m, "cuda_cfg_mix",
        [](int dtype, Address cond, int64_t cond_stride, Address uncond, int64_t uncond_stride, int out_dtype,
           Address out, int64_t rows, int64_t size, float guidance, Address guidance_rows, Address stream) {
          return cuda::cfg_mix(static_cast<DType>(dtype), pointer(cond), cond_stride, pointer(uncond), uncond_stride,
                               static_cast<DType>(out_dtype), pointer(out), rows, size,
                               {guidance, pointer<float>(guidance_rows)}, pointer(stream));
        });
#endif
}

}  // namespace illume_fast
