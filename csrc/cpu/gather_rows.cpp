#include "illume_fast/gather_rows.h"

#include <cstring>

#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// bytes a thread should copy to be worth waking
constexpr int64_t kGrain = 1 << 17;

}  // namespace

int64_t gather_rows(const void* table, int64_t stride, int64_t rows, int64_t bytes, const int64_t* index, void* out,
                    int64_t count) {
  for (int64_t t = 0; t < count; ++t) {
    if (index[t] >= rows) return t;
  }
  parallel_for(count, grain_of(kGrain, bytes), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      char* to = static_cast<char*>(out) + t * bytes;
      const auto size = static_cast<size_t>(bytes);
      if (index[t] < 0) {
        std::memset(to, 0, size);
      } else {
        std::memcpy(to, static_cast<const char*>(table) + index[t] * stride, size);
      }
    }
  });
  return -1;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
