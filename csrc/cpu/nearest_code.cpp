// Two passes. The first takes float32 scores of every code and keeps the best of each block. An error bound on those
// tells which blocks may hold the answer, nearly always one; the second looks at their codes in double. So the answer is
// that of double arithmetic for any input, and only the time depends on how close the codes lie.
#include "illume_fast/nearest_code.h"

#include <cfloat>
#include <cmath>
#include <limits>

#include "parallel.h"
#include "scratch.h"
#include "simd.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int kHalf = kLanes / 2;
typedef double vd __attribute__((vector_size(kHalf * 8)));
typedef float vfh __attribute__((vector_size(kHalf * 4)));

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int64_t kPanels = kBlockCodes / kPanelCodes;
constexpr int64_t kGroupBytes = 256 * 1024;  // codes that stay in the second-level cache while queries pass by
constexpr int64_t kScores = int64_t{1} << 20;
constexpr int64_t kGrain = 200000;  // multiplications a thread should have to be worth waking

// queries that share a load of the codes: as many as the registers hold accumulators for, two vectors each
#if defined(__AVX512F__)
constexpr int kQueries = 8;
#elif defined(__AVX2__)
constexpr int kQueries = 6;
#else
constexpr int kQueries = 4;
#endif

inline vd widened(const float* p) {
  vfh x;
  std::memcpy(&x, p, sizeof x);
  return __builtin_convertvector(x, vd);
}

inline double sum(vd x) {
  double total = 0.0;
  for (int i = 0; i < kHalf; ++i) total += x[i];
  return total;
}

inline double inner_product(const float* a, const float* b, int64_t n) {
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) total += widened(a + i) * widened(b + i);
  double rest = 0.0;
  for (; i < n; ++i) rest += static_cast<double>(a[i]) * b[i];
  return sum(total) + rest;
}

inline double squared_distance(const float* a, const float* b, int64_t n) {
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) {
    const vd d = widened(a + i) - widened(b + i);
    total += d * d;
  }
  double rest = 0.0;
  for (; i < n; ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    rest += d * d;
  }
  return sum(total) + rest;
}

inline bool finite(const float* p, int64_t n) {
  bool good = true;
  for (int64_t i = 0; i < n; ++i) good &= std::fabs(p[i]) <= FLT_MAX;
  return good;
}

inline float largest(vf x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  return max_lane(x);
#endif
}

// ---- the first pass ----

// The best score of each block for Q queries `size` apart; those of a query go to `best`, `stride` after the last one's.
template <int Q>
void score(const float* x, int64_t size, const float* panels, const float* offsets, int64_t blocks, float* best,
           int64_t stride) {
  for (int64_t block = 0; block < blocks; ++block) {
    vf top[Q];
    for (int q = 0; q < Q; ++q) top[q] = broadcast(-kInf);
    for (int64_t panel = 0; panel < kPanels; ++panel) {
      const float* base = panels + (block * kPanels + panel) * size * kPanelCodes;
      const float* offset = offsets + block * kBlockCodes + panel * kPanelCodes;
      for (int64_t part = 0; part < kPanelCodes; part += 2 * kLanes) {
        vf low[Q], high[Q];
        for (int q = 0; q < Q; ++q) {
          low[q] = load(offset + part);
          high[q] = load(offset + part + kLanes);
        }
        const float* c = base + part;
        for (int64_t d = 0; d < size; ++d, c += kPanelCodes) {
          const vf c0 = load(c), c1 = load(c + kLanes);
#pragma GCC unroll 8
          for (int q = 0; q < Q; ++q) {
            const vf xq = broadcast(x[q * size + d]);
            low[q] = fma(xq, c0, low[q]);
            high[q] = fma(xq, c1, high[q]);
          }
        }
        for (int q = 0; q < Q; ++q) top[q] = max(top[q], max(low[q], high[q]));
      }
    }
    for (int q = 0; q < Q; ++q) best[q * stride + block] = largest(top[q]);
  }
}

template <int Q>
void score_some(int64_t queries, const float* x, int64_t size, const float* panels, const float* offsets,
                int64_t blocks, float* best, int64_t stride) {
  if constexpr (Q > 0) {
    if (queries == Q) return score<Q>(x, size, panels, offsets, blocks, best, stride);
    score_some<Q - 1>(queries, x, size, panels, offsets, blocks, best, stride);
  }
}

// ---- the second pass ----

struct Query {
  const float* x;
  double length;  // of what the first pass saw: centred for l2; inf where float32 did not hold it
  const float* best;
};

// No less than the error of any score in the block: size + 1 roundings in the sum, of terms that add up to no more than
// length * longest and half of longest squared, a few more in its inputs; and for numbers flushed to zero.
inline double error_bound(Metric metric, double length, double longest, int64_t size) {
  const double scale = length * longest + (metric == Metric::l2 ? longest * longest / 2 : 0.0);
  if (!(scale < 1e37)) return HUGE_VAL;
  const double count = static_cast<double>(size + 8);
  return count * (1.01 * 0x1p-24 * scale + 4.0 * FLT_MIN);
}

int64_t nearest(Metric metric, const Query& query, const PackedCodes& codebook, int64_t blocks) {
  const int64_t size = codebook.size;
  double reached = -HUGE_VAL;
  for (int64_t b = 0; b < blocks; ++b) {
    const double sure = query.best[b] - error_bound(metric, query.length, codebook.longest[b], size);
    if (sure > reached) reached = sure;
  }
  // scores that agree to within the rounding of double count as ties
  const double rounding = static_cast<double>(size + 4) * 0x1p-52;
  int64_t id = -1;
  double best = 0.0;
  for (int64_t b = 0; b < blocks; ++b) {
    if (query.best[b] + error_bound(metric, query.length, codebook.longest[b], size) < reached) continue;
    const int64_t end = (b + 1) * kBlockCodes < codebook.count ? (b + 1) * kBlockCodes : codebook.count;
    for (int64_t k = b * kBlockCodes; k < end; ++k) {
      if (codebook.offsets[k] == -kInf) continue;
      const float* code = codebook.codes + k * size;
      if (metric == Metric::l2) {
        const double distance = squared_distance(query.x, code, size);
        if (id >= 0 && !(distance < best * (1.0 - rounding))) continue;
        best = distance;
      } else {
        double product = inner_product(query.x, code, size);
        double scale = std::sqrt(inner_product(code, code, size));
        if (metric == Metric::cosine) {
          product = scale > 0.0 ? product / scale : 0.0;
          scale = 1.0;
        }
        if (id >= 0 && !(product > best + rounding * query.length * scale)) continue;
        best = product;
      }
      id = k;
    }
  }
  return id;
}

// ---- both, for a part of the queries at a time ----

template <typename T>
struct Source {
  const T* x;
  int64_t outer_stride, inner, inner_stride, stride;

  void read(int64_t row, int64_t size, float* out) const {
    const T* p = x + row / inner * outer_stride + row % inner * inner_stride;
    if (stride == 1) {
      int64_t d = 0;
      for (; d + kLanes <= size; d += kLanes) store(out + d, load(p + d));
      if (d < size) store_n(out + d, load_n(p + d, size - d), size - d);
      return;
    }
    for (int64_t d = 0; d < size; ++d) out[d] = load_one(p + d * stride);
  }
};

template <typename T>
bool search(Metric metric, const Source<T>& source, int64_t rows, const PackedCodes& codebook, int64_t* ids) {
  static thread_local Scratch scratch;
  const int64_t size = codebook.size, blocks = (codebook.count + kBlockCodes - 1) / kBlockCodes;
  const int64_t block_floats = kBlockCodes * size;
  const int64_t group = kGroupBytes / 4 / (block_floats + 1) + 1;
  int64_t most = kScores / (blocks + 2 * size + 1) / kQueries * kQueries;
  most = most < 64 * kQueries ? 64 * kQueries : most;
  most = most < rows ? most : rows;
  const bool centred = metric == Metric::l2;

  double* lengths = static_cast<double*>(scratch.reserve(most * (8 + 4 * (blocks + (centred ? 2 : 1) * size))));
  if (lengths == nullptr) return false;
  float* best = reinterpret_cast<float*>(lengths + most);
  float* plain = best + most * blocks;
  float* queries = centred ? plain + most * size : plain;

  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = rows - first < most ? rows - first : most;

    parallel_for(count, 32768 / (size + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) {
        float* x = plain + q * size;
        source.read(first + q, size, x);
        const bool good = finite(x, size);
        if (centred) {
          for (int64_t d = 0; d < size; ++d) queries[q * size + d] = good ? x[d] - codebook.center[d] : 0.0f;
        }
        const float* seen = queries + q * size;
        lengths[q] = !good ? -1.0 : finite(seen, size) ? std::sqrt(inner_product(seen, seen, size)) : HUGE_VAL;
      }
    });

    const auto score_part = [&](int64_t tile_begin, int64_t tile_end, int64_t block_begin, int64_t block_end) {
      for (int64_t b = block_begin; b < block_end; b += group) {
        const int64_t some = block_end - b < group ? block_end - b : group;
        for (int64_t q = tile_begin * kQueries; q < tile_end * kQueries && q < count; q += kQueries) {
          const int64_t left = count - q < kQueries ? count - q : kQueries;
          score_some<kQueries>(left, queries + q * size, size, codebook.panels + b * block_floats,
                               codebook.offsets + b * kBlockCodes, some, best + q * blocks + b, blocks);
        }
      }
    };
    const int64_t tiles = (count + kQueries - 1) / kQueries;
    if (tiles >= 16) {
      const int64_t grain = kGrain / (blocks * block_floats * kQueries + 1) + 1;
      parallel_for(tiles, grain, [&](int64_t begin, int64_t end) { score_part(begin, end, 0, blocks); });
    } else {
      const int64_t grain = kGrain / (block_floats * count + 1) + 1;
      parallel_for(blocks, grain, [&](int64_t begin, int64_t end) { score_part(0, tiles, begin, end); });
    }

    parallel_for(count, kGrain / (block_floats + 1) / 4 + 1, [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) {
        const Query query{plain + q * size, lengths[q], best + q * blocks};
        ids[first + q] = lengths[q] < 0.0 ? -1 : nearest(metric, query, codebook, blocks);
      }
    });
  }
  return true;
}

}  // namespace

void nearest_code_pack(Metric metric, const float* codes, int64_t count, int64_t size, float* panels, float* offsets,
                       float* longest, float* center) {
  const int64_t blocks = (count + kBlockCodes - 1) / kBlockCodes;
  for (int64_t k = 0; k < blocks * kBlockCodes; ++k) {
    offsets[k] = k < count && finite(codes + k * size, size) ? 0.0f : -kInf;
  }
  for (int64_t d = 0; d < size; ++d) center[d] = 0.0f;
  if (metric == Metric::l2) {
    // any centre would do, so the sum may be rounded; near the codes' mean the scores are small and so are their errors
    int64_t usable = 0;
    for (int64_t k = 0; k < count; ++k) usable += offsets[k] == 0.0f;
    for (int64_t k = 0; k < count; ++k) {
      if (offsets[k] != 0.0f) continue;
      const float share = 1.0f / static_cast<float>(usable);
      for (int64_t d = 0; d < size; ++d) center[d] += codes[k * size + d] * share;
    }
    if (!finite(center, size)) {
      for (int64_t d = 0; d < size; ++d) center[d] = 0.0f;
    }
  }
  parallel_for(blocks, 65536 / (kBlockCodes * size + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * kBlockCodes; k < end * kBlockCodes; ++k) {
      float* column = panels + k / kPanelCodes * size * kPanelCodes + k % kPanelCodes;
      if (k % kBlockCodes == 0) longest[k / kBlockCodes] = 0.0f;
      if (offsets[k] == -kInf) {
        for (int64_t d = 0; d < size; ++d) column[d * kPanelCodes] = 0.0f;
        continue;
      }
      const float* code = codes + k * size;
      double squared = metric == Metric::l2 ? squared_distance(code, center, size) : inner_product(code, code, size);
      if (metric == Metric::cosine) {
        const double scale = squared > 0.0 ? 1.0 / std::sqrt(squared) : 0.0;
        for (int64_t d = 0; d < size; ++d) column[d * kPanelCodes] = static_cast<float>(code[d] * scale);
        squared = squared > 0.0 ? 1.0 : 0.0;
      } else {
        for (int64_t d = 0; d < size; ++d) column[d * kPanelCodes] = code[d] - center[d];
      }
      // rounded up, that the bounds hold
      float own = static_cast<float>(std::sqrt(squared)) * 1.000001f;
      if (metric == Metric::l2) offsets[k] = static_cast<float>(-squared / 2);
      if (!(squared < 1e37)) {
        own = kInf;
        offsets[k] = 0.0f;
      }
      float& widest = longest[k / kBlockCodes];
      widest = own > widest ? own : widest;
    }
  });
}

bool nearest_code(Metric metric, DType dtype, const void* x, int64_t outer, int64_t outer_stride, int64_t inner,
                  int64_t inner_stride, int64_t stride, const PackedCodes& codebook, int64_t* ids) {
  bool enough = false;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const Source<T> source{static_cast<const T*>(x), outer_stride, inner, inner_stride, stride};
    enough = search(metric, source, outer * inner, codebook, ids);
  });
  return enough;
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
