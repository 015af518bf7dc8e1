// Choice of the instruction set. Compiled once, with baseline flags, since it runs before the choice is made.
#include "illume_fast/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace illume_fast {
namespace {

constexpr int kUnset = -1;
std::atomic<int> chosen{kUnset};

bool has(Isa isa) {
#ifdef ILLUME_FAST_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  }
#endif
  return isa == Isa::portable;
}

Isa best() {
  if (has(Isa::avx512)) return Isa::avx512;
  return has(Isa::avx2) ? Isa::avx2 : Isa::portable;
}

Isa parse(const std::string& name, const char* source) {
  std::string have;
  for (const std::string& each : available_isas()) have += (have.empty() ? "" : ", ") + each;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (name == isa_name(isa) && has(isa)) return isa;
  }
  throw std::invalid_argument(std::string(source) + ": '" + name + "' cannot run here; this CPU has " + have);
}

Isa default_isa() {
  const char* forced = std::getenv("ILLUME_FAST_ISA");
  return forced != nullptr && *forced != '\0' ? parse(forced, "ILLUME_FAST_ISA") : best();
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (has(isa)) names.emplace_back(isa_name(isa));
  }
  return names;
}

Isa active_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa == kUnset) {
    isa = static_cast<int>(default_isa());
    chosen.store(isa, std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

void set_isa(const std::string& name) {
  chosen.store(static_cast<int>(name.empty() ? default_isa() : parse(name, "isa")), std::memory_order_relaxed);
}

}  // namespace illume_fast
