#include <cuda_runtime.h>

#include "illume_fast/cuda.h"

namespace illume_fast::cuda {

const char* error_string(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace illume_fast::cuda
