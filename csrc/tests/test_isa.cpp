#include <stdexcept>

#include "check.h"

using namespace illume_fast;
using namespace illume_fast::testing;

int main() {
  const std::vector<std::string> have = available_isas();
  CHECK(!have.empty() && have.front() == "portable");
  for (const std::string& name : have) {
    set_isa(name);
    CHECK(isa_name(active_isa()) == name);
  }
  try {
    set_isa("sse9");
    CHECK(false);
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).find("'sse9'") != std::string::npos);
    CHECK(std::string(error.what()).find("portable") != std::string::npos);
  }
  CHECK(isa_name(active_isa()) == have.back());
  return report();
}
