#include <cuda_runtime.h>

#include "illume_fast/cuda.h"

namespace illume_fast::cuda {

const char* error_string(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace illume_fast::cuda
