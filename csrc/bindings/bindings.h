// What the files in csrc/bindings share: pointers arrive from Python as integers (Tensor.data_ptr()).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>

namespace illume_fast {

namespace py = pybind11;

using Address = uintptr_t;

template <typename T = void>
inline T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// Other Python threads run while a kernel does. F takes and returns nothing of Python's.
template <typename F>
inline void define(py::module_& m, const char* name, F&& f) {
  m.def(name, std::forward<F>(f), py::call_guard<py::gil_scoped_release>());
}

}  // namespace illume_fast
