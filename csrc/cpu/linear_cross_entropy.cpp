// The logits of a block are made in the caches and go into each row's running maximum and sum of exponentials (the online
// softmax of Milakov and Gimelshein, 2018, arXiv 1805.02867), a chunk of the vocabulary at a time. Chunks are put together
// in order, so that the number of threads does not show. The gradient makes the logits a second time.
#include "illume_fast/linear_cross_entropy.h"

#include <cmath>
#include <limits>
#include <memory>
#include <new>

#include "parallel.h"
#include "products.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kChunkOutputs = 32 * kBlockOutputs;
constexpr int64_t kGroupRows = 10 * kBlockRows;

inline int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
inline int64_t part(int64_t n, int64_t size, int64_t i) { return n - i * size < size ? n - i * size : size; }

// log(sum of exp) as it grows: `mass` is the sum of exp(logit - largest).
struct Softmax {
  float largest = kMinusInfinity;
  float mass = 0.0f;

  // what exponents are taken of; nothing is left of -inf minus -inf
  float base() const { return largest == kMinusInfinity ? 0.0f : largest; }

  void add(const float* logits, int64_t count) {
    vf top = broadcast(kMinusInfinity);
    for_each_vector(count, [&](int64_t n, int64_t some) { top = max(top, masked(logits + n, some)); });
    const float best = max_lane(top);
    if (best > largest) {
      // the first logits may be so far below 0 that this would be 0 * inf
      if (largest != kMinusInfinity) mass *= exp(broadcast(largest - best))[0];
      largest = best;
    }
    vf total{};
    for_each_vector(count, [&](int64_t n, int64_t some) { total += exp(masked(logits + n, some) - base()); });
    mass += sum(total);
  }

 private:
  static vf masked(const float* logits, int64_t some) {
    vf x = load(logits);
    for (int64_t i = some; i < kLanes; ++i) x[i] = kMinusInfinity;
    return x;
  }
};

template <typename T>
bool losses_of(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride,
               const int64_t* labels, float* losses, float* normalizers, int64_t outputs, int64_t inputs) {
  const int64_t chunks = parts(outputs, kChunkOutputs), groups = parts(rows, kGroupRows);
  const std::unique_ptr<Softmax[]> found(new (std::nothrow) Softmax[static_cast<size_t>(chunks * rows)]);
  if (found == nullptr) return false;
  Softmax* const sums = found.get();
  // losses holds the label's logit until the end
  parallel_for(chunks * groups, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = i / groups, row = i % groups * kGroupRows, count = part(rows, kGroupRows, i % groups);
      const int64_t last = chunk * kChunkOutputs + part(outputs, kChunkOutputs, chunk);
      for (int64_t n = chunk * kChunkOutputs; n < last; n += kBlockOutputs) {
        const int64_t some = last - n < kBlockOutputs ? last - n : kBlockOutputs;
        for_each_row_of_products(x + row * x_stride, x_stride, count, weight + n * weight_stride, weight_stride, some,
                                 inputs, [=](int64_t m, const float* logits) {
                                   sums[chunk * rows + row + m].add(logits, some);
                                   const int64_t label = labels[row + m] - n;
                                   if (label >= 0 && label < some) losses[row + m] = logits[label];
                                 });
      }
    }
  });
  for (int64_t m = 0; m < rows; ++m) {
    float largest = kMinusInfinity;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float one = sums[chunk * rows + m].largest;
      if (one > largest) largest = one;
    }
    double mass = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const Softmax& one = sums[chunk * rows + m];
      if (one.mass != 0.0f) mass += one.mass * std::exp(static_cast<double>(one.base()) - largest);
    }
    const double normalizer = largest + std::log(mass);
    normalizers[m] = static_cast<float>(normalizer);
    losses[m] = static_cast<float>(normalizer - losses[m]);
  }
  return true;
}

template <typename T>
void logit_gradients(const T* x, int64_t x_stride, int64_t rows, const T* weight, int64_t weight_stride,
                     const int64_t* labels, const float* normalizers, const float* grads, T* out, int64_t first,
                     int64_t outputs, int64_t inputs) {
  const int64_t blocks = parts(outputs, kBlockOutputs), groups = parts(rows, kGroupRows);
  parallel_for(blocks * groups, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % groups * kGroupRows, count = part(rows, kGroupRows, i % groups);
      const int64_t block = i / groups * kBlockOutputs, some = part(outputs, kBlockOutputs, i / groups);
      for_each_row_of_products(
          x + row * x_stride, x_stride, count, weight + block * weight_stride, weight_stride, some, inputs,
          [=](int64_t at, const float* logits) {
            const int64_t m = row + at;
            T* to = out + m * outputs + block;
            float shares[kBlockOutputs];
            for (int64_t n = 0; n < kBlockOutputs; n += kLanes) {
              store(shares + n, exp(load(logits + n) - normalizers[m]));
            }
            const int64_t label = labels[m] - first - block;
            if (label >= 0 && label < some) shares[label] -= 1.0f;
            for_each_vector(some, [=, &shares](int64_t n, int64_t lanes) {
              store_some(to + n, load(shares + n) * grads[m], lanes);
            });
          });
    }
  });
}

}  // namespace

bool linear_cross_entropy(DType dtype, const void* x, int64_t x_stride, int64_t rows, const void* weight,
                          int64_t weight_stride, const int64_t* labels, float* losses, float* normalizers,
                          int64_t outputs, int64_t inputs) {
  bool done = false;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    done = losses_of(static_cast<const T*>(x), x_stride, rows, static_cast<const T*>(weight), weight_stride, labels,
                     losses, normalizers, outputs, inputs);
  });
  return done;
}

void linear_cross_entropy_logit_gradients(DType dtype, const void* x, int64_t x_stride, int64_t rows,
                                          const void* weight, int64_t weight_stride, const int64_t* labels,
                                          const float* normalizers, const float* grads, void* out, int64_t first,
                                          int64_t outputs, int64_t inputs) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    logit_gradients(static_cast<const T*>(x), x_stride, rows, static_cast<const T*>(weight), weight_stride, labels,
                    normalizers, grads, static_cast<T*>(out), first, outputs, inputs);
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
