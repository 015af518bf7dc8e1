// The GPU's search for the nearest code, run on emulated blocks and tensor cores, beside that of the CPU kernels.
#include <algorithm>

#include "check.h"
#include "illume_fast/nearest_code.h"
#include "nearest_code.cuh"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

struct Case {
  Metric metric;
  int64_t queries, count, size;
  bool close;  // codes differ by less than bfloat16 tells, some not at all
};

// The packed form, as kernels/cuda/nearest_code.py makes it.
struct Packed {
  std::vector<float> center, offsets, longest, errors;
  std::vector<__nv_bfloat16> rounded;
  cuda::GpuCodes codes;

  Packed(const Case& c, const Buffer<float>& given) {
    const int64_t width = (c.size + 15) / 16 * 16, blocks = (c.count + 63) / 64;
    center.assign(static_cast<size_t>(c.size), 0.0f);
    offsets.assign(static_cast<size_t>(blocks * 64), -INFINITY);
    longest.assign(static_cast<size_t>(blocks), 0.0f);
    errors.assign(static_cast<size_t>(blocks), 0.0f);
    rounded.assign(static_cast<size_t>(blocks * 64 * width), __nv_bfloat16{0});
    float most = 0.0f;
    for (int64_t k = 0; k < c.count; ++k) {
      const float* code = given.get() + k * c.size;
      double squared = 0.0, lost = 0.0;
      for (int64_t d = 0; d < c.size; ++d) squared += static_cast<double>(code[d]) * code[d];
      const double scale = c.metric == Metric::cosine ? (squared > 0 ? 1.0 / std::sqrt(squared) : 0.0) : 1.0;
      for (int64_t d = 0; d < c.size; ++d) {
        const float x = static_cast<float>(code[d] * scale);
        const __nv_bfloat16 r = __float2bfloat16(x);
        rounded[static_cast<size_t>(k * width + d)] = r;
        lost += std::pow(static_cast<double>(x) - __bfloat162float(r), 2);
      }
      const float own = static_cast<float>(std::sqrt(squared) * scale * 1.000001);
      offsets[static_cast<size_t>(k)] = c.metric == Metric::l2 ? static_cast<float>(-squared / 2) : 0.0f;
      float& length = longest[static_cast<size_t>(k / 64)];
      float& error = errors[static_cast<size_t>(k / 64)];
      length = std::max(length, own);
      error = std::max(error, static_cast<float>(std::sqrt(lost) * 1.000001));
      most = std::max(most, own);
    }
    codes = {given.get(), c.count, c.size, width, blocks, rounded.data(), offsets.data(), longest.data(),
             errors.data(), center.data(), most};
  }
};

void search(const cuda::SearchArgs& a) {
  using namespace cuda;
  const auto warps = [&](auto&& visit) {
    for (int64_t query = 0; query < a.queries; ++query) {
      emulated::run_cluster(1, 32, {nullptr}, [&] { visit(query, emulated::lane()); });
    }
  };
  warps([&](int64_t query, int lane) { round_query(a, query, lane); });
  const int64_t tiles = (a.codebook.blocks * kGpuBlockCodes + kCodes - 1) / kCodes;
  for (int64_t first = 0; first < a.queries; first += kRows) {
    for (const int64_t begin : {int64_t{0}, tiles / 2}) {
      const int64_t end = begin == 0 ? tiles / 2 : tiles;
      Buffer<SearchShared> shared(1);
      emulated::run_cluster(1, kSearchThreads, {reinterpret_cast<char*>(shared.get())},
                            [&] { score_codes(a, first, begin, end, *shared.get()); });
    }
  }
  warps([&](int64_t query, int lane) { refine(a, query, lane); });
}

void compare(const Case& c) {
  Buffer<float> x(c.queries * c.size), codes(c.count * c.size);
  fill(x, 1, 2.0f);
  fill(codes, 2);
  if (c.close) {
    for (int64_t i = 0; i < codes.size(); ++i) codes[i] = codes[i % c.size] + codes[i] * 1e-5f;
    for (int64_t d = 0; d < c.size; ++d) codes[(c.count - 1) * c.size + d] = codes[3 * c.size + d];
  }
  for (int64_t d = 0; d < c.size; ++d) x[d] = codes[(c.count - 1) * c.size + d];  // the last code itself
  x[c.size] = NAN;
  const Packed packed(c, codes);
  Buffer<__nv_bfloat16> rounded(c.queries * packed.codes.width);
  Buffer<float> lengths(c.queries), errors(c.queries), best(c.queries * packed.codes.blocks);
  Buffer<int64_t> ids(c.queries), expected(c.queries);
  search({c.metric, DType::f32, x.get(), c.queries, 0, c.size, 1, c.queries, packed.codes,
          {rounded.get(), lengths.get(), errors.get(), best.get()}, ids.get()});

  const int64_t blocks = (c.count + kBlockCodes - 1) / kBlockCodes;
  Buffer<float> panels(blocks * kBlockCodes * c.size), offsets(blocks * kBlockCodes), longest(blocks);
  Buffer<float> code_errors(blocks), center(c.size);
  Buffer<uint32_t> pairs(blocks * kBlockCodes * ((c.size + 1) / 2));
  nearest_code_pack(c.metric, codes.get(), c.count, c.size, panels.get(), pairs.get(), offsets.get(), longest.get(),
                    code_errors.get(), center.get());
  const PackedCodes book{codes.get(),   c.count,       c.size,            panels.get(), pairs.get(),
                         offsets.get(), longest.get(), code_errors.get(), center.get()};
  CHECK(nearest_code(c.metric, DType::f32, x.get(), 1, 0, c.queries, c.size, 1, book, expected.get()));
  for (int64_t i = 0; i < c.queries; ++i) CHECK(ids[i] == expected[i]);
  CHECK(ids[1] == -1);
}

}  // namespace

int main() {
  compare({Metric::l2, 130, 300, 32, false});
  compare({Metric::l2, 9, 300, 32, true});
  compare({Metric::cosine, 20, 129, 20, false});
  compare({Metric::dot, 20, 65, 70, false});
  compare({Metric::l2, 5, 500, 3, false});
  compare({Metric::dot, 5, 64, 1, true});
  return report();
}
