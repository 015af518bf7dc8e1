// Two passes. The first takes low-precision scores of every code and keeps the best of each block. An error bound on those
// tells which blocks may hold the answer, nearly always few; the second scores their codes in float32, and looks at those
// that may be nearest in double. So the answer is that of double arithmetic for any input, and only the time depends on
// how close the codes lie.
#include "illume_fast/nearest_code.h"

#include "code_scores.h"
#include "distances.h"
#include "parallel.h"
#include "rounding.h"
#include "scratch.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr int64_t kGroupBytes = 256 * 1024;  // codes that stay in the second-level cache while queries pass by
constexpr int64_t kScores = int64_t{1} << 20;
constexpr int64_t kGrain = 200000;  // multiplications a thread should have to be worth waking

// ---- the second pass ----

struct Query {
  const float* x;       // as given
  const float* seen;    // what scores are taken of: for l2 less the center
  float length, error;  // no less than the length of `seen` (inf: float32 does not hold it) and of what rounding took
  const float* best;    // in each block
};

// Bounds on the errors of scores of `seen`, in blocks where no code is longer than `longest`. A sum of size + 1 roundings,
// of terms that add up to no more than length * longest and half of longest squared; a few more roundings in what goes
// in; numbers flushed to zero; and, of rounded numbers, what rounding took from either factor. Each is a little more than
// that, so that its own rounding does no harm.
struct Bound {
  float half, relative, absolute, length, error;

  Bound(Metric metric, const Query& query, int64_t size)
      : half(metric == Metric::l2 ? 0.5f : 0.0f),
        relative(1.02f * 0x1p-24f * static_cast<float>(size + 8)),
        absolute(5.0f * FLT_MIN * static_cast<float>(size + 8)),
        length(query.length),
        error(query.error) {}

  vf of_floats(vf longest) const {
    const vf scale = length * longest + half * longest * longest;
    return scale < 1e37f ? relative * scale + absolute : broadcast(kInf);
  }
  vf of_rounded(vf longest, vf errors) const {
    return of_floats(longest) + 1.02f * (error * longest + (length + error) * errors);
  }
};

// Goes through the codes that may be nearest, in the order of their ids.
class Nearest {
 public:
  Nearest(Metric metric, const Query& query, const PackedCodes& codebook)
      : metric_(metric),
        q_(query),
        c_(codebook),
        bound_(metric, query, codebook.size),
        // scores that agree to within the rounding of double count as ties
        rounding_(static_cast<double>(codebook.size + 4) * 0x1p-52) {}

  int64_t operator()(int64_t blocks) {
    for (int64_t b = 0; b < blocks; b += kLanes) {
      const int64_t n = blocks - b < kLanes ? blocks - b : kLanes;
      const vf sure = load_some(q_.best + b, n) - bound(b, n);
      for (int64_t i = 0; i < n; ++i) reached_ = sure[i] > reached_ ? sure[i] : reached_;
    }
    for (int64_t b = 0; b < blocks; b += kLanes) {
      const int64_t n = blocks - b < kLanes ? blocks - b : kLanes;
      const vi hopeless = load_some(q_.best + b, n) + bound(b, n) < reached_;
      for (int64_t i = 0; i < n; ++i) {
        if (!hopeless[i]) look_at(b + i);
      }
    }
    return id_;
  }

 private:
  static vf load_some(const float* p, int64_t n) { return n == kLanes ? load(p) : load_n(p, n); }

  vf bound(int64_t b, int64_t n) const {
    const vf longest = load_some(c_.longest + b, n);
    return kRounded ? bound_.of_rounded(longest, load_some(c_.errors + b, n)) : bound_.of_floats(longest);
  }

  void look_at(int64_t block) {
    float scores[kBlockCodes];
    const float most = score_block(q_.seen, c_.size, c_.panels + block * kBlockCodes * c_.size,
                                   c_.offsets + block * kBlockCodes, scores);
    const float error = bound_.of_floats(broadcast(c_.longest[block]))[0];
    reached_ = most - error > reached_ ? most - error : reached_;
    const int64_t first = block * kBlockCodes;
    const int64_t count = c_.count - first < kBlockCodes ? c_.count - first : kBlockCodes;
    for (int64_t i = 0; i < count; ++i) {
      if (!(scores[i] + error < reached_) && c_.offsets[first + i] != -kInf) compare(first + i);
    }
  }

  void compare(int64_t k) {
    const float* code = c_.codes + k * c_.size;
    if (metric_ == Metric::l2) {
      const double distance = squared_distance(q_.x, code, c_.size);
      if (id_ >= 0 && !(distance < best_ * (1.0 - rounding_))) return;
      best_ = distance;
    } else {
      double product = inner_product(q_.x, code, c_.size), scale = std::sqrt(inner_product(code, code, c_.size));
      if (metric_ == Metric::cosine) {
        product = scale > 0.0 ? product / scale : 0.0;
        scale = 1.0;
      }
      if (id_ >= 0 && !(product > best_ + rounding_ * q_.length * scale)) return;
      best_ = product;
    }
    id_ = k;
  }

  Metric metric_;
  const Query& q_;
  const PackedCodes& c_;
  Bound bound_;
  double rounding_, best_ = 0.0;
  float reached_ = -kInf;  // no code whose score is surely less is nearest
  int64_t id_ = -1;
};

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

// What is known of some queries at once.
struct Workspace {
  float *plain, *seen, *lengths, *errors, *best;
  uint32_t* pairs;
};

bool reserve(Metric metric, const PackedCodes& codebook, int64_t blocks, int64_t queries, Workspace* w) {
  static thread_local Scratch scratch;
  const int64_t vectors = metric == Metric::l2 ? 2 : 1, words = kRounded ? pairs_of(codebook.size) : 0;
  w->lengths = static_cast<float*>(scratch.reserve(queries * 4 * (2 + blocks + vectors * codebook.size + words)));
  if (w->lengths == nullptr) return false;
  w->errors = w->lengths + queries;
  w->best = w->errors + queries;
  w->plain = w->best + queries * blocks;
  w->seen = w->plain + (vectors - 1) * queries * codebook.size;
  w->pairs = reinterpret_cast<uint32_t*>(w->seen + queries * codebook.size);
  return true;
}

template <typename T>
void prepare(Metric metric, const Source<T>& source, int64_t row, const PackedCodes& codebook, int64_t q,
             const Workspace& w) {
  const int64_t size = codebook.size;
  float *x = w.plain + q * size, *seen = w.seen + q * size;
  source.read(row, size, x);
  const bool good = finite(x, size);
  if (metric == Metric::l2) {
    for (int64_t d = 0; d < size; ++d) seen[d] = good ? x[d] - codebook.center[d] : 0.0f;
  }
  const float length = static_cast<float>(std::sqrt(inner_product(seen, seen, size)) * 1.000001);
  w.lengths[q] = !good ? -1.0f : finite(seen, size) ? length : kInf;
  w.errors[q] = 0.0f;
  if constexpr (kRounded) {
    w.errors[q] = round_pairs(seen, 1, size, w.pairs + q * pairs_of(size), 1);
    if (!(w.errors[q] < kInf)) w.errors[q] = kInf;
  }
}

// The best score of blocks [b, b + some) for queries [q, q + count).
void score_part(const PackedCodes& codebook, const Workspace& w, int64_t q, int64_t count, int64_t b, int64_t some,
                int64_t blocks) {
  const int64_t words = kRounded ? pairs_of(codebook.size) : codebook.size;
  const float* offsets = codebook.offsets + b * kBlockCodes;
  float* best = w.best + q * blocks + b;
  if constexpr (kRounded) {
    score_some<kQueries>(count, w.pairs + q * words, words, codebook.pairs + b * kBlockCodes * words, offsets, some,
                         best, blocks);
  } else {
    score_some<kQueries>(count, w.seen + q * words, words, codebook.panels + b * kBlockCodes * words, offsets, some,
                         best, blocks);
  }
}

template <typename T>
bool search(Metric metric, const Source<T>& source, int64_t rows, const PackedCodes& codebook, int64_t* ids) {
  const int64_t size = codebook.size, blocks = (codebook.count + kBlockCodes - 1) / kBlockCodes;
  const int64_t block_floats = kBlockCodes * size;
  const int64_t group = kGroupBytes / 4 / (block_floats + 1) + 1;
  int64_t most = kScores / (blocks + 2 * size + 1) / kQueries * kQueries;
  most = most < 64 * kQueries ? 64 * kQueries : most;
  most = most < rows ? most : rows;
  Workspace w;
  if (!reserve(metric, codebook, blocks, most, &w)) return false;

  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = rows - first < most ? rows - first : most;
    parallel_for(count, grain_of(32768, size), [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) prepare(metric, source, first + q, codebook, q, w);
    });

    const auto score_tiles = [&](int64_t tile_begin, int64_t tile_end, int64_t block_begin, int64_t block_end) {
      for (int64_t b = block_begin; b < block_end; b += group) {
        const int64_t some = block_end - b < group ? block_end - b : group;
        for (int64_t q = tile_begin * kQueries; q < tile_end * kQueries && q < count; q += kQueries) {
          score_part(codebook, w, q, count - q < kQueries ? count - q : kQueries, b, some, blocks);
        }
      }
    };
    const int64_t tiles = (count + kQueries - 1) / kQueries;
    if (tiles >= 16) {
      const int64_t grain = kGrain / (blocks * block_floats * kQueries + 1) + 1;
      parallel_for(tiles, grain, [&](int64_t begin, int64_t end) { score_tiles(begin, end, 0, blocks); });
    } else {
      const int64_t grain = kGrain / (block_floats * count + 1) + 1;
      parallel_for(blocks, grain, [&](int64_t begin, int64_t end) { score_tiles(0, tiles, begin, end); });
    }

    parallel_for(count, kGrain / (block_floats + 1) / 4 + 1, [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) {
        const Query query{w.plain + q * size, w.seen + q * size, w.lengths[q], w.errors[q], w.best + q * blocks};
        ids[first + q] = w.lengths[q] < 0.0f ? -1 : Nearest(metric, query, codebook)(blocks);
      }
    });
  }
  return true;
}

}  // namespace

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
