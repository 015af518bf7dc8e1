#include "illume_fast/linear.h"

#include "parallel.h"
#include "products.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {
namespace {

// numbers of the weight a thread should read, once for each kRows rows of x, to be worth waking
constexpr int64_t kGrain = 1 << 16;

int64_t blocks_of(const LinearLayer& layer) { return (layer.outputs + kBlockOutputs - 1) / kBlockOutputs; }

int64_t work_of_block(const LinearInput& x) { return kBlockOutputs * x.inputs * ((x.rows + kRows - 1) / kRows); }

template <typename T>
const T* weight_of(const LinearLayer& layer, int64_t first) {
  return static_cast<const T*>(layer.weight) + first * layer.weight_stride;
}

template <typename T>
void block(const LinearInput& x, const LinearLayer& layer, int64_t first) {
  const int64_t outputs = layer.outputs;
  const int64_t some = outputs - first < kBlockOutputs ? outputs - first : kBlockOutputs;
  T* out = static_cast<T*>(layer.out) + first;
  const T* bias = static_cast<const T*>(layer.bias);
  for_each_row_of_products(static_cast<const T*>(x.x), x.stride, x.rows, weight_of<T>(layer, first),
                           layer.weight_stride, some, x.inputs, [=](int64_t m, const float* sums) {
                             for_each_vector(some, [=](int64_t n, int64_t count) {
                               vf sum = load(sums + n);
                               if (bias != nullptr) sum += load_some(bias + first + n, count);
                               store_some(out + m * outputs + n, sum, count);
                             });
                           });
}

template <typename T>
void swiglu_block(const LinearInput& x, const LinearLayer& gate, const LinearLayer& up, int64_t first, T* out) {
  const int64_t outputs = gate.outputs;
  const int64_t some = outputs - first < kBlockOutputs ? outputs - first : kBlockOutputs;
  float gates[kBlockRows * kBlockOutputs], ups[kBlockRows * kBlockOutputs];
  for_each_block_of_rows(x.rows, [&](int64_t row, int64_t rows) {
    const T* from = static_cast<const T*>(x.x) + row * x.stride;
    products_of_block(from, x.stride, rows, weight_of<T>(gate, first), gate.weight_stride, some, x.inputs, gates);
    products_of_block(from, x.stride, rows, weight_of<T>(up, first), up.weight_stride, some, x.inputs, ups);
    for (int64_t m = 0; m < rows; ++m) {
      for_each_vector(some, [&](int64_t n, int64_t count) {
        const vf g = rounded<T>(load(gates + m * kBlockOutputs + n)), u = rounded<T>(load(ups + m * kBlockOutputs + n));
        store_some(out + (row + m) * outputs + first + n, g * sigmoid(g) * u, count);
      });
    }
  });
}

}  // namespace

void linear(DType dtype, LinearInput x, const LinearLayer* layers, int64_t count) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) blocks += blocks_of(layers[i]);
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    parallel_for(blocks, grain_of(kGrain, work_of_block(x)), [=](int64_t begin, int64_t end) {
      const LinearLayer* layer = layers;
      int64_t before = 0;  // blocks of the layers before this one
      for (int64_t i = begin; i < end; ++i) {
        while (i - before >= blocks_of(*layer)) before += blocks_of(*layer++);
        block<T>(x, *layer, (i - before) * kBlockOutputs);
      }
    });
  });
}

void swiglu_linear(DType dtype, LinearInput x, const LinearLayer& gate, const LinearLayer& up, void* out) {
  with_dtype(dtype, [=](auto tag) {
    using T = decltype(tag);
    parallel_for(blocks_of(gate), grain_of(kGrain, 2 * work_of_block(x)), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) swiglu_block(x, gate, up, i * kBlockOutputs, static_cast<T*>(out));
    });
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
