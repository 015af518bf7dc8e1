// The GPU's copies of rows, beside those of the CPU.
#include "check.h"
#include "gather_rows.cuh"
#include "illume_fast/gather_rows.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

template <typename T>
void compare(int64_t parts, int64_t gap) {
  constexpr int64_t kRows = 5, kCount = 7, size = sizeof(T);
  const int64_t bytes = parts * size, stride = (parts + gap) * size;
  Buffer<T> table((kRows - 1) * (parts + gap) + parts), out(kCount * parts), expected(kCount * parts);
  auto* raw = reinterpret_cast<unsigned char*>(table.get());
  for (int64_t i = 0; i < table.size() * size; ++i) raw[i] = static_cast<unsigned char>(i * 37 + 5);
  Buffer<int64_t> index(kCount);
  for (int64_t t = 0; t < kCount; ++t) index[t] = t % 3 == 2 ? -t : t % kRows;
  CHECK(gather_rows(table.get(), stride, kRows, bytes, index.get(), expected.get(), kCount) == -1);
  index[0] = kRows;  // out of range
  std::memset(expected.get(), 0xff, static_cast<size_t>(bytes));
  for (int64_t i = 0; i < out.size(); ++i) {
    cuda::gather_part(reinterpret_cast<const char*>(table.get()), stride, kRows, parts, index.get(), out.get(), i);
  }
  CHECK(std::memcmp(out.get(), expected.get(), static_cast<size_t>(kCount * bytes)) == 0);
}

}  // namespace

int main() {
  compare<cuda::Vector<float, 4>>(3, 1);
  compare<uint32_t>(5, 0);
  compare<uint16_t>(1, 2);
  compare<uint8_t>(9, 4);
  return report();
}
