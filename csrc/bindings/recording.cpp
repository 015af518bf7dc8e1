#include "recording.h"

#include <atomic>

#include <pybind11/stl.h>

#include "bindings.h"
#include "illume_fast/crew.h"

namespace illume_fast {
namespace {

using Clock = std::chrono::steady_clock;

thread_local Recording* recording_here = nullptr;
std::atomic<int64_t> nanoseconds{0};

}  // namespace

Recording* Recording::current() { return recording_here; }
void Recording::set_current(Recording* recording) { recording_here = recording; }

int64_t Recording::run(double* seconds) const {
  struct Chain {
    const std::vector<Call>& calls;
    double* seconds;
    int64_t failed;
  } chain{calls_, seconds, -1};
  const KernelTime time;
  with_crew(
      [](void* context) {
        Chain& c = *static_cast<Chain*>(context);
        for (size_t i = 0; i < c.calls.size() && c.failed < 0; ++i) {
          const auto start = c.seconds == nullptr ? Clock::time_point() : Clock::now();
          if (!c.calls[i]()) c.failed = static_cast<int64_t>(i);
          if (c.seconds != nullptr) c.seconds[i] = std::chrono::duration<double>(Clock::now() - start).count();
        }
      },
      &chain);
  return chain.failed;
}

std::vector<std::pair<const char*, double>> Recording::profile() const {
  std::vector<double> seconds(calls_.size());
  run(seconds.data());
  std::vector<std::pair<const char*, double>> answer;
  for (size_t i = 0; i < calls_.size(); ++i) answer.emplace_back(names_[i], seconds[i]);
  return answer;
}

KernelTime::~KernelTime() {
  const auto life = Clock::now() - start_;
  nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(life).count();
}

double KernelTime::seconds() { return 1e-9 * static_cast<double>(nanoseconds.load()); }

void register_recording(py::module_& m) {
  py::class_<Recording>(m, "Recording")
      .def(py::init<>())
      .def("__len__", &Recording::size)
      .def("start", [](Recording& self) { Recording::set_current(&self); })
      .def("stop", [](Recording&) { Recording::set_current(nullptr); })
      .def("name", &Recording::name, py::arg("call"))
      .def("profile", &Recording::profile)
      .def("replay", &Recording::replay, py::call_guard<py::gil_scoped_release>());
  m.def("kernel_seconds", &KernelTime::seconds);
}

}  // namespace illume_fast
