// What the files in csrc/bindings share: pointers arrive from Python as integers (Tensor.data_ptr()).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "illume_fast/recording.h"
#include "kernel_time.h"

namespace illume_fast {

namespace py = pybind11;

using Address = uintptr_t;

template <typename T = void>
inline T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// Whether a kernel's answer says that it did its work: true, CUDA's error 0, or no token (-1) that is out of range.
template <typename F, typename... Args>
inline bool succeeds(const F& f, const Args&... args) {
  using Answer = std::invoke_result_t<const F&, const Args&...>;
  if constexpr (std::is_void_v<Answer>) {
    f(args...);
    return true;
  } else if constexpr (std::is_same_v<Answer, bool>) {
    return f(args...);
  } else if constexpr (std::is_same_v<Answer, int>) {
    return f(args...) == 0;
  } else {
    return f(args...) < 0;
  }
}

template <typename F, typename Answer, typename... Args>
inline auto timed_and_recorded(const char* name, F f, Answer (F::*)(Args...) const) {
  return [name, f](Args... args) -> Answer {
    if (Recording* recording = Recording::current()) recording->add(name, [=] { return succeeds(f, args...); });
    const KernelTime time;
    return f(args...);
  };
}

// Other Python threads run while a kernel does. F takes and returns nothing of Python's.
template <typename F>
inline void define(py::module_& m, const char* name, F f) {
  m.def(name, timed_and_recorded(name, f, &F::operator()), py::call_guard<py::gil_scoped_release>());
}

}  // namespace illume_fast
