#include "illume_fast/threads.h"

#include <cstdlib>
#include <cstring>

namespace illume_fast {
namespace {

bool is(const char* name, const char* value) {
  const char* set = std::getenv(name);
  return set != nullptr && std::strcmp(set, value) == 0;
}

}  // namespace

bool threads_sleep() {
  // read once, as OpenMP itself does
  static const bool sleep = is("OMP_WAIT_POLICY", "passive") || is("OMP_WAIT_POLICY", "PASSIVE") || is("GOMP_SPINCOUNT", "0");
  return sleep;
}

}  // namespace illume_fast
