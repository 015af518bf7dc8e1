#include <pybind11/stl.h>

#include <optional>

#include "../paging/page_pool.h"
#include "bindings.h"

namespace illume_fast {

void register_page_pool(py::module_& m) {
  // one exception class for both implementations of the pool
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const OutOfPages& error) {
      const py::object kind = py::module_::import("illume_fast.kernels.paging_reference").attr("OutOfPages");
      PyErr_SetString(kind.ptr(), error.what());
    }
  });
  py::class_<PagePool>(m, "PagePool", "The page pool of csrc/paging; described in illume_fast.kernels.paging_reference.")
      .def(py::init<int64_t, int64_t>(), py::arg("num_pages"), py::arg("page_size"))
      .def_property_readonly("num_pages", &PagePool::num_pages)
      .def_property_readonly("page_size", &PagePool::page_size)
      .def_property_readonly("num_free", &PagePool::num_free)
      .def_property_readonly("num_used", &PagePool::num_used)
      .def("sequences", &PagePool::sequences)
      .def("new", &PagePool::make)
      .def("length", &PagePool::length, py::arg("sequence"))
      .def("pages", &PagePool::pages, py::arg("sequence"))
      .def("ref_count", &PagePool::ref_count, py::arg("page"))
      .def("append", &PagePool::append, py::arg("sequence"), py::arg("tokens"))
      .def("fork", &PagePool::fork, py::arg("sequence"))
      .def("share_prefix", &PagePool::share_prefix, py::arg("sequence"), py::arg("tokens"))
      .def("free", &PagePool::free, py::arg("sequence"))
      .def(
          "check",
          [](const PagePool& pool, const std::optional<std::vector<int64_t>>& live) {
            live ? pool.check(*live) : pool.check();
          },
          py::arg("live") = py::none());
}

}  // namespace illume_fast
