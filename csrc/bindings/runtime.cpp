#include <omp.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "illume_fast/cuda.h"
#include "illume_fast/isa.h"
#include "illume_fast/peak.h"

namespace illume_fast {

void register_runtime(py::module_& m) {
  m.def("active_isa", [] { return isa_name(active_isa()); });
  m.def("available_isas", &available_isas);
  m.def("set_isa", &set_isa, py::arg("name"));
  m.def("multiply_adds", &multiply_adds, py::arg("rounds"));
  m.def("rounded_multiply_adds", &rounded_multiply_adds, py::arg("rounds"));
  m.def("max_threads", [] { return omp_get_max_threads(); });
#ifdef ILLUME_FAST_CUDA_ARCHITECTURES
  m.attr("cuda_architectures") = ILLUME_FAST_CUDA_ARCHITECTURES;
  m.def("cuda_error_string", &cuda::error_string, py::arg("code"));
  m.def("cuda_device_count", &cuda::device_count);
#else
  m.attr("cuda_architectures") = py::none();
#endif
}

}  // namespace illume_fast
