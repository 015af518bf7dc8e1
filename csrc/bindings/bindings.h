// What the files in csrc/bindings share: pointers arrive from Python as integers (Tensor.data_ptr()).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace illume_fast {

namespace py = pybind11;

using Address = uintptr_t;

template <typename T = void>
inline T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace illume_fast
