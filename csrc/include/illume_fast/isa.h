// Which instruction set the CPU kernels use, chosen once by the CPU at run time.
#pragma once

#include <string>
#include <vector>

#if defined(__x86_64__)
#define ILLUME_FAST_X86 1
#endif

namespace illume_fast {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2 };

// The best the CPU has, unless ILLUME_FAST_ISA or set_isa names another.
// Throws std::invalid_argument when ILLUME_FAST_ISA names one that is unknown or that this CPU lacks.
Isa active_isa();

// Makes every later kernel call use `name`; an empty name goes back to the default. Throws like active_isa.
void set_isa(const std::string& name);

// What this CPU has, slowest first.
std::vector<std::string> available_isas();

const char* isa_name(Isa isa);

}  // namespace illume_fast

// ILLUME_FAST_PER_ISA(void, swiglu, (const float* x, int64_t n), (x, n)) declares the variants that are compiled from
// one source (portable::swiglu, avx2::swiglu, avx512::swiglu) and defines illume_fast::swiglu, which calls the active one.
// To be used inside namespace illume_fast.
#ifdef ILLUME_FAST_X86
#define ILLUME_FAST_PER_ISA(result, name, parameters, arguments) \
  namespace portable {                                           \
  result name parameters;                                        \
  }                                                              \
  namespace avx2 {                                               \
  result name parameters;                                        \
  }                                                              \
  namespace avx512 {                                             \
  result name parameters;                                        \
  }                                                              \
  inline result name parameters {                                \
    switch (active_isa()) {                                      \
      case Isa::avx512:                                          \
        return avx512::name arguments;                           \
      case Isa::avx2:                                            \
        return avx2::name arguments;                             \
      default:                                                   \
        return portable::name arguments;                         \
    }                                                            \
  }
#else
#define ILLUME_FAST_PER_ISA(result, name, parameters, arguments) \
  namespace portable {                                           \
  result name parameters;                                        \
  }                                                              \
  inline result name parameters { return portable::name arguments; }
#endif
