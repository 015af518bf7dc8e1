// The extension illume_fast.kernels._C: a table of contents, each line filled in by a file of csrc/bindings.
#include <pybind11/pybind11.h>

namespace illume_fast {
void register_runtime(pybind11::module_& m);
void register_swiglu(pybind11::module_& m);
}  // namespace illume_fast

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of illume_fast. Addresses, sizes and strides in; the callers in illume_fast.kernels check.";
  illume_fast::register_runtime(m);
  illume_fast::register_swiglu(m);
}
