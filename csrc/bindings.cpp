// The extension illume_fast.kernels._C: a table of contents, each line filled in by a file of csrc/bindings.
#include <pybind11/pybind11.h>

namespace illume_fast {
void register_cfg_sample(pybind11::module_& m);
void register_code_statistics(pybind11::module_& m);
void register_codebook_ema(pybind11::module_& m);
void register_cuda_plan_ahead(pybind11::module_& m);
void register_cuda_plan_steps(pybind11::module_& m);
void register_decode_attention(pybind11::module_& m);
void register_gather_rows(pybind11::module_& m);
void register_gelu(pybind11::module_& m);
void register_linear(pybind11::module_& m);
void register_linear_cross_entropy(pybind11::module_& m);
void register_nearest_code(pybind11::module_& m);
void register_runtime(pybind11::module_& m);
void register_spatial_norm(pybind11::module_& m);
void register_swiglu(pybind11::module_& m);
void register_page_pool(pybind11::module_& m);
void register_paged_append(pybind11::module_& m);
void register_paged_attention(pybind11::module_& m);
void register_plan_ahead(pybind11::module_& m);
void register_plan_steps(pybind11::module_& m);
void register_quantize(pybind11::module_& m);
void register_recording(pybind11::module_& m);
void register_rms_norm(pybind11::module_& m);
void register_rope(pybind11::module_& m);
}  // namespace illume_fast

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of illume_fast. Addresses, sizes and strides in; the callers in illume_fast.kernels check.";
  illume_fast::register_runtime(m);
  illume_fast::register_cfg_sample(m);
  illume_fast::register_code_statistics(m);
  illume_fast::register_codebook_ema(m);
  illume_fast::register_cuda_plan_ahead(m);
  illume_fast::register_cuda_plan_steps(m);
  illume_fast::register_decode_attention(m);
  illume_fast::register_gather_rows(m);
  illume_fast::register_gelu(m);
  illume_fast::register_linear(m);
  illume_fast::register_linear_cross_entropy(m);
  illume_fast::register_nearest_code(m);
  illume_fast::register_spatial_norm(m);
  illume_fast::register_swiglu(m);
  illume_fast::register_page_pool(m);
  illume_fast::register_paged_append(m);
  illume_fast::register_paged_attention(m);
  illume_fast::register_plan_ahead(m);
  illume_fast::register_plan_steps(m);
  illume_fast::register_quantize(m);
  illume_fast::register_recording(m);
  illume_fast::register_rms_norm(m);
  illume_fast::register_rope(m);
}
