// The few macros that the C++ tests need. A test is a program: it includes this, checks, and returns `report()`.
//
// Buffers come from `Buffer`, whose size is exact, so that the address sanitizer sees any access past their end.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "illume_fast/isa.h"

namespace illume_fast::testing {

inline int checks = 0;
inline int failures = 0;

inline void check(bool ok, const char* what, const char* file, int line, const std::string& detail = "") {
  ++checks;
  if (ok) return;
  ++failures;
  std::fprintf(stderr, "%s:%d: [%s] failed: %s %s\n", file, line, isa_name(active_isa()), what, detail.c_str());
}

inline void check_near(double actual, double expected, double tolerance, const char* what, const char* file, int line) {
  const bool both_nan = std::isnan(actual) && std::isnan(expected);
  const bool equal = actual == expected || std::fabs(actual - expected) <= tolerance;
  check(both_nan || equal, what, file, line, std::to_string(actual) + " instead of " + std::to_string(expected));
}

// What the Error says that f throws; empty if it throws none.
template <typename Error, typename F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

inline int report() {
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

// n elements on the heap, no more; read as NaN or huge until written
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t n) : data_(new T[static_cast<size_t>(n)]), size_(n) {
    unsigned char* bytes = reinterpret_cast<unsigned char*>(data_.get());
    for (size_t i = 0; i < static_cast<size_t>(n) * sizeof(T); ++i) bytes[i] = 0xff;
  }
  T* get() { return data_.get(); }
  const T* get() const { return data_.get(); }
  T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
  int64_t size() const { return size_; }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_;
};

// The same numbers everywhere, uniform in [-scale, scale).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  float operator()(float scale = 1.0f) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (static_cast<float>(state_ >> 40) * 0x1p-23f - 1.0f) * scale;
  }

 private:
  uint64_t state_;
};

inline void fill(Buffer<float>& buffer, uint64_t seed, float scale = 1.0f) {
  Random random(seed);
  for (int64_t i = 0; i < buffer.size(); ++i) buffer[i] = random(scale);
}

// Calls f once for every instruction set this CPU has, forced.
template <typename F>
void for_each_isa(F&& f) {
  for (const std::string& isa : available_isas()) {
    set_isa(isa);
    f();
  }
  set_isa("");
}

}  // namespace illume_fast::testing

#define CHECK(condition) ::illume_fast::testing::check((condition), #condition, __FILE__, __LINE__)
#define CHECK_NEAR(actual, expected, tolerance) \
  ::illume_fast::testing::check_near((actual), (expected), (tolerance), #actual, __FILE__, __LINE__)
