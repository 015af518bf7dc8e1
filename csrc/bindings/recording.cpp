#include "illume_fast/recording.h"

#include <atomic>

#include <pybind11/stl.h>

#include "bindings.h"

namespace illume_fast {
namespace {

std::atomic<int64_t> nanoseconds{0};

}  // namespace

KernelTime::~KernelTime() {
  const auto life = std::chrono::steady_clock::now() - start_;
  nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(life).count();
}

double KernelTime::seconds() { return 1e-9 * static_cast<double>(nanoseconds.load()); }

void register_recording(py::module_& m) {
  py::class_<Recording, std::shared_ptr<Recording>>(m, "Recording")
      .def(py::init<>())
      .def("__len__", &Recording::size)
      .def("start", [](std::shared_ptr<Recording> self) { Recording::start(std::move(self)); })
      .def("stop", &Recording::stop)
      .def("profile",
           [](const Recording& self) {
             const KernelTime time;
             return self.profile();
           })
      .def(
          "replay",
          [](const Recording& self) {
            const KernelTime time;
            self.replay();
          },
          py::call_guard<py::gil_scoped_release>());
  m.def("kernel_seconds", &KernelTime::seconds);
}

}  // namespace illume_fast
