#include "cfg_sample.cuh"

#include <algorithm>

namespace illume_fast::cuda {
namespace {

constexpr int kMaxCluster = 8;

template <typename T, bool kThen>
__global__ void __launch_bounds__(kThreads) sample_kernel(const Args a) {
  extern __shared__ int32_t keys[];
  __shared__ Shared s;
  const int64_t index = blockIdx.x / Group::size();
  const float guidance = at(a.parameters.guidance, index);
  if (a.uncond == nullptr || guidance == 1.0f || guidance == 0.0f) {
    sample_row<T, false, kThen>(a, index, a.uncond == nullptr ? 1.0f : guidance, keys, s);
  } else {
    sample_row<T, true, kThen>(a, index, guidance, keys, s);
  }
  Group::sync();  // others may still read this block's shared memory
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) weights_kernel(const Args a) {
  extern __shared__ int32_t keys[];
  __shared__ Shared s;
  const int64_t index = blockIdx.x / Group::size();
  const float guidance = at(a.parameters.guidance, index);
  if (a.uncond == nullptr || guidance == 1.0f || guidance == 0.0f) {
    weigh_row<T, false>(a, index, a.uncond == nullptr ? 1.0f : guidance, keys, s);
  } else {
    weigh_row<T, true>(a, index, guidance, keys, s);
  }
  Group::sync();
}

// One thread mixes one number: rows are short, and a guided step has few of them.
template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads)
    mix_kernel(const T* cond, int64_t cond_stride, const T* uncond, int64_t uncond_stride, Out* out, int64_t rows,
               int64_t size, const PerRow<float> guidance) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * size) return;
  const int64_t row = i / size, column = i % size;
  const float g = at(guidance, row);
  const float c = to_float(cond[row * cond_stride + column]), u = to_float(uncond[row * uncond_stride + column]);
  out[i] = from_float<Out>(g == 1.0f ? c : g == 0.0f ? u : __fmaf_rn(g, c - u, u));
}

template <typename T>
bool is_off(const PerRow<T>& parameter, T off) {
  return parameter.rows == nullptr && parameter.value == off;
}

struct Device {
  int major, multiprocessors, shared_bytes;
};

int this_device(Device* device) {
  int number = 0;
  cudaError_t error = cudaGetDevice(&number);
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, number);
  };
  get(&device->major, cudaDevAttrComputeCapabilityMajor);
  get(&device->multiprocessors, cudaDevAttrMultiProcessorCount);
  get(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return static_cast<int>(error);
}

int launch(void (*kernel)(Args), Args args, int64_t rows, const Device& device, cudaStream_t stream) {
  const int64_t room = (device.shared_bytes - static_cast<int64_t>(sizeof(Shared)) - 1024) / 4;
  // more blocks to a row while the GPU has some to spare, or while that keeps more keys in shared memory
  unsigned cluster = 1;
  const unsigned most = device.major >= 9 ? kMaxCluster : 1;
  while (cluster < most && args.size > 2048 * cluster &&
         (rows * cluster < device.multiprocessors || args.size > room * cluster)) {
    cluster *= 2;
  }
  args.slice = ceil_div(args.size, cluster);
  args.cached = std::min(args.slice, room);
  const int bytes = static_cast<int>(args.cached * 4);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return static_cast<int>(error);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(rows * cluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = device.major >= 9 ? 1 : 0;
  return static_cast<int>(cudaLaunchKernelEx(&config, kernel, args));
}

}  // namespace

int cfg_sample(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
               int64_t* ids, int64_t first, int64_t rows, int64_t size, const SampleParameters& parameters,
               Stream stream) {
  Device device{};
  if (const int error = this_device(&device); error != 0) return error;
  const Args args{cond, uncond, cond_stride, uncond_stride, ids, first, size, 0, 0, parameters};
  const bool then = !is_off(parameters.then_temperature, 1.0f) || !is_off(parameters.then_top_k, int64_t{0}) ||
                    !is_off(parameters.then_top_p, 1.0f);
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    // a kernel of its own, so that the plain chain keeps its registers
    const auto kernel = then ? sample_kernel<T, true> : sample_kernel<T, false>;
    return launch(kernel, args, rows, device, static_cast<cudaStream_t>(stream));
  });
}

int cfg_weights(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
                int64_t* weights, int64_t rows, int64_t size, const SampleParameters& parameters, Stream stream) {
  Device device{};
  if (const int error = this_device(&device); error != 0) return error;
  const Args args{cond, uncond, cond_stride, uncond_stride, nullptr, 0, size, 0, 0, parameters, weights};
  return with_dtype(dtype, [&](auto tag) {
    return launch(weights_kernel<decltype(tag)>, args, rows, device, static_cast<cudaStream_t>(stream));
  });
}

int cfg_mix(DType dtype, const void* cond, int64_t cond_stride, const void* uncond, int64_t uncond_stride,
            DType out_dtype, void* out, int64_t rows, int64_t size, const PerRow<float>& guidance, Stream stream) {
  return with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    return with_dtype(out_dtype, [&](auto out_tag) {
      using Out = decltype(out_tag);
      const auto blocks = static_cast<unsigned>(ceil_div(rows * size, kThreads));
      mix_kernel<T, Out><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          static_cast<const T*>(cond), cond_stride, static_cast<const T*>(uncond), uncond_stride,
          static_cast<Out*>(out), rows, size, guidance);
      return static_cast<int>(cudaGetLastError());
    });
  });
}

}  // namespace illume_fast::cuda
