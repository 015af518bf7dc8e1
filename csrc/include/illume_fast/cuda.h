// What the CUDA launchers give back, for callers without CUDA's headers.
#pragma once

namespace illume_fast::cuda {

// A stream, as the address that torch.cuda.current_stream().cuda_stream gives; 0 is the default stream.
using Stream = void*;

// A launcher returns 0 or CUDA's error code, of which this is the text.
const char* error_string(int code);

// How many GPUs the driver offers; 0 without a driver.
int device_count();

}  // namespace illume_fast::cuda
