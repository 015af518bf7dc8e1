#include "illume_fast/spatial_norm.h"

#include <cmath>
#include <vector>

#include "loops.h"
#include "parallel.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// elements a thread should have to be worth waking
constexpr int64_t kGrain = 16384;
// pixels that are summed together: the same whatever the threads
constexpr int64_t kRun = 64;

// Sums of what each channel of `count` pixels differs from the picture's first pixel by, and of its squares.
void run_sums(const float* x, const float* first, int64_t count, int64_t channels, float* sums, float* squares) {
  for_each_vector(channels, [=](int64_t c, int64_t n) {
    const vf pivot = load_some(first + c, n);
    vf total[2] = {}, square[2] = {};
    for (int64_t i = 0; i < count; ++i) {
      const vf d = load_some(x + i * channels + c, n) - pivot;
      total[i & 1] += d;
      square[i & 1] = fma(d, d, square[i & 1]);
    }
    store_some(sums + c, total[0] + total[1], n);
    store_some(squares + c, square[0] + square[1], n);
  });
}

// norm(x) = x * factor + offset, channel by channel, from the sums of a picture's runs.
void factors(const SpatialNorm& p, const float* first, const float* runs, int64_t count, float* factor, float* offset) {
  const int64_t width = p.channels / p.groups;
  const double pixels = static_cast<double>(p.rows * p.columns), values = pixels * static_cast<double>(width);
  for (int64_t begin = 0; begin < p.channels; begin += width) {
    // channels differ from their own pivots: their means first, then squares about the group's
    double mean = 0.0, square = 0.0;
    for (int64_t c = begin; c < begin + width; ++c) {
      double sum = 0.0, squares = 0.0;
      for (int64_t r = 0; r < count; ++r) {
        sum += runs[2 * r * p.channels + c];
        squares += runs[(2 * r + 1) * p.channels + c];
      }
      const double own = first[c] + sum / pixels, away = own - mean, before = static_cast<double>(c - begin);
      square += squares - sum * sum / pixels + away * away * pixels * before / (before + 1.0);
      mean += away / (before + 1.0);
    }
    const double variance = square > 0.0 ? square / values : square * 0.0;  // NaN stays
    const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(p.eps));
    for (int64_t c = begin; c < begin + width; ++c) {
      const double by = inverse * p.weight[c];
      factor[c] = static_cast<float>(by);
      offset[c] = static_cast<float>(p.bias[c] - mean * by);
    }
  }
}

template <bool kSilu>
void apply_cell(const SpatialNorm& p, const float* x, const float* factor, const float* offset, const float* scale,
                const float* shift, float* out) {
  const int64_t height = p.rows / p.code_rows, width = p.columns / p.code_columns, line = p.columns * p.channels;
  for_each_vector(p.channels, [=, channels = p.channels](int64_t c, int64_t n) {
    const vf by = load_some(scale + c, n);
    const vf a = load_some(factor + c, n) * by, b = fma(load_some(offset + c, n), by, load_some(shift + c, n));
    for (int64_t i = 0; i < height; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t at = i * line + j * channels + c;
        const vf y = fma(load_some(x + at, n), a, b);
        store_some(out + at, kSilu ? y * sigmoid(y) : y, n);
      }
    }
  });
}

}  // namespace

void spatial_norm(const SpatialNorm& p) {
  const int64_t pixels = p.rows * p.columns, picture = pixels * p.channels, runs = (pixels + kRun - 1) / kRun;
  std::vector<float> memory(static_cast<size_t>(p.batch * (runs + 1) * 2 * p.channels));
  float* const sums = memory.data();
  float* const found = sums + p.batch * runs * 2 * p.channels;
  parallel_for(p.batch * runs, grain_of(kGrain, kRun * p.channels), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* first = p.x + i / runs * picture;
      const int64_t at = i % runs * kRun, count = pixels - at < kRun ? pixels - at : kRun;
      float* to = sums + i * 2 * p.channels;
      run_sums(first + at * p.channels, first, count, p.channels, to, to + p.channels);
    }
  });
  for (int64_t b = 0; b < p.batch; ++b) {
    float* to = found + b * 2 * p.channels;
    factors(p, p.x + b * picture, sums + b * runs * 2 * p.channels, runs, to, to + p.channels);
  }
  const int64_t cells = p.code_rows * p.code_columns;
  const int64_t height = p.rows / p.code_rows, width = p.columns / p.code_columns;
  const auto apply = p.silu ? apply_cell<true> : apply_cell<false>;
  parallel_for(p.batch * cells, grain_of(kGrain, picture / cells), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / cells, row = i % cells / p.code_columns, column = i % p.code_columns;
      const int64_t at = b * picture + (row * height * p.columns + column * width) * p.channels;
      const float* by = found + b * 2 * p.channels;
      apply(p, p.x + at, by, by + p.channels, p.scale + i * p.cell_stride, p.shift + i * p.cell_stride, p.out + at);
    }
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
